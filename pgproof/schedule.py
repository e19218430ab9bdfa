"""A schedule: when a flow of a cluster runs. A cron line, an interval, off, or auto: what is derived from its name.

The engine runs nothing by itself; it reads and checks what pgproof.toml says, so that a slip is found where it was
made and not by a server that never starts a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from pgproof.section import Section

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
SHORTEST = 60  # seconds; a run that starts more often than this is never over before the next
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ITEM = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields of a cron line."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()  # the first stands for low

    def number(self, text: str) -> int:
        if text.lower() in self.words:
            return self.words.index(text.lower()) + self.low
        if not text.isdigit() or not self.low <= int(text) <= self.high:
            raise ValueError(f'"{text}" is no {self.name} of {self.low} to {self.high}')
        return int(text)

    def check(self, text: str) -> None:
        for item in text.split(","):
            match = _ITEM.fullmatch(item)
            if match is None:
                raise ValueError(f'"{item}" is no {self.name}')
            first, last, step = match["first"], match["last"], match["step"]
            if first == "*" and last is not None:
                raise ValueError(f'"{item}" is no {self.name}')
            if step is not None and int(step) == 0:
                raise ValueError(f'"{item}" has a step of 0')
            start = self.low if first == "*" else self.number(first)
            if last is not None and self.number(last) < start:
                raise ValueError(f'"{item}" goes backwards')


_CRON = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _DAYS),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a flow runs.

    Args:
        cron: five fields, as cron(5) has them.
        interval: seconds between the starts.
        off: never by itself.
    """

    cron: str | None = None
    interval: int | None = None
    off: bool = False

    @property
    def auto(self) -> bool:
        """Whether it is left to the generator."""
        return self == AUTO

    def __str__(self) -> str:
        if self.cron is not None:
            return self.cron
        if self.interval is not None:
            return f"{self.interval}s"
        return "off" if self.off else "auto"


AUTO, OFF = Schedule(), Schedule(off=True)


def read_schedule(value: object) -> Schedule:
    """A schedule as pgproof.toml has it: ``"30 1 * * *"``, ``"5min"``, ``300``, ``"off"``, ``"auto"``.

    Raises:
        ValueError: it is none, with what is wrong.
    """
    if isinstance(value, Schedule):
        return value
    if value is False or value == "off":
        return OFF
    if value == "auto":
        return AUTO
    if isinstance(value, str) and len(value.split()) == len(_CRON):
        return _cron(value)
    return Schedule(interval=_interval(value))


def _cron(text: str) -> Schedule:
    fields = text.split()
    for field, part in zip(_CRON, fields, strict=True):
        field.check(part)
    return Schedule(cron=" ".join(fields))


def _interval(value: object) -> int:
    match = re.fullmatch(r"([0-9]+)\s*([a-z]*)", str(value).strip())
    if isinstance(value, bool) or match is None or match[2] not in (*_UNITS, ""):
        raise ValueError(
            f'"{value}" is no schedule: cron such as "30 1 * * *", an interval such as "5min", "off" or "auto"'
        )
    seconds = int(match[1]) * _UNITS.get(match[2], 1)
    if seconds < SHORTEST:
        raise ValueError(f'"{value}" is shorter than {SHORTEST} s')
    return seconds


When = Annotated[
    Schedule, BeforeValidator(read_schedule), PlainSerializer(str), WithJsonSchema({"type": "string"})
]


class SchedulesConfig(Section):
    """When the flows of a cluster run, for ``pgproof deploy``."""

    timezone: str = Field("UTC", description="of the cron lines, such as Europe/Berlin")
    base_backup: When = AUTO
    incremental: When = AUTO
    wal_gap_check: When = AUTO
    restore_validation: When = AUTO
    oldest_proof: When = AUTO
    retention_pruning: When = AUTO
    protect: When = AUTO

    def model_post_init(self, _: object) -> None:
        if self.timezone != "UTC":
            from zoneinfo import ZoneInfo

            try:
                ZoneInfo(self.timezone)
            except (ValueError, OSError, KeyError) as error:  # its own error is a KeyError
                raise ValueError(f'timezone "{self.timezone}" is not known here') from error
