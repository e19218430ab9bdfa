"""A recovery target says where recovery stops (PostgreSQL manual, 19.5.6)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime

from pgproof.errors import InvalidTarget
from pgproof.timelines.lsn import LSN


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """Where recovery stops.

    Args:
        kind: ``end`` (of the archive), ``immediate`` (as soon as consistent), ``time``, ``lsn``, ``xid``
            or ``name`` (of a restore point).
        value: as PostgreSQL's setting takes it.
        exclusive: stop just before the target rather than just after.
        timeline: to follow; None is the one on which life went on (``pgproof.restore.futures``).
    """

    kind: str = "end"
    value: str = ""
    exclusive: bool = False
    timeline: int | None = None

    @classmethod
    def build(
        cls,
        *,
        time: str | None = None,
        lsn: str | None = None,
        xid: str | None = None,
        name: str | None = None,
        immediate: bool = False,
        exclusive: bool = False,
        timeline: str | None = None,
    ) -> RecoveryTarget:
        """The target that an operator's options mean.

        Raises:
            InvalidTarget: more than one was given, or one cannot be read.
        """
        # an empty one is refused below: taken for none, it would recover to the end
        options = (("time", time), ("lsn", lsn), ("xid", xid), ("name", name))
        given = [(kind, value) for kind, value in options if value is not None]
        given += [("immediate", "immediate")] if immediate else []
        if len(given) > 1:
            names = ", ".join(f"--target-{kind}" for kind, _ in given)
            raise InvalidTarget(
                "more than one recovery target was given", f"Given were {names}.", "choose one"
            )
        kind, value = given[0] if given else ("end", "")
        if exclusive and kind not in ("time", "lsn", "xid"):
            raise InvalidTarget(
                f"--exclusive has no meaning for recovery target {kind}",
                hint="it goes with --target-time, --target-lsn and --target-xid",
            )
        return cls(kind, _checked(kind, value), exclusive, _timeline(timeline))

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.value)

    @property
    def lsn(self) -> LSN:
        return LSN.parse(self.value)

    def __str__(self) -> str:
        if self.kind in ("end", "immediate"):
            return {"end": "the end of the archived WAL", "immediate": "the end of the backup"}[self.kind]
        return f"{self.kind} {self.value}{' (exclusive)' if self.exclusive else ''}"


def _checked(kind: str, value: str) -> str:
    if kind == "time":
        return parse_time(value).isoformat(sep=" ")
    if kind == "lsn":
        return str(LSN.parse(value))
    if kind == "xid" and not (value.isascii() and value.isdigit() and 3 <= int(value) < 1 << 64):
        raise InvalidTarget(f'invalid transaction ID "{value}"', "It is a number of 3 or more.")
    if kind == "name" and not 0 < len(os.fsencode(value)) < 64:
        raise InvalidTarget(f'invalid restore point name "{value}"', "It has 1 to 63 bytes.")
    return value


def parse_time(text: str, what: str = "target time") -> datetime:
    """A time with its zone, in UTC; ``what`` it is the time of, for messages.

    Raises:
        InvalidTarget: it cannot be read or has no zone; a guess could miss the target by hours.
    """
    try:
        time = datetime.fromisoformat(text.strip())
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidTarget(
            f'invalid {what} "{text}"', f"{error}.", 'such as "2026-11-23 20:15:00+01:00" or "...Z"'
        ) from error
    raise InvalidTarget(
        f'{what} "{text}" has no time zone',
        "Without a zone it could be hours off.",
        f'write "{time}Z" for UTC or "{time}+01:00" for an offset',
    )


def _timeline(text: str | None) -> int | None:
    if text is None or text == "latest":
        return None
    try:
        timeline = int(text, 0)
    except ValueError:
        timeline = 0
    if timeline < 1:
        raise InvalidTarget(f'invalid target timeline "{text}"', hint='a number, or "latest"')
    return timeline
