"""Recovery settings: what is written into postgresql.auto.conf, with those of an earlier restore taken out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pgproof.restore.target import RecoveryTarget
from pgproof.restore.whole_file import replace_file

_FILE = "postgresql.auto.conf"
_HEADING = "# written by pgproof restore"
# Every setting of an earlier recovery that could leak into this one (manual, 19.5.5, 19.5.6, 19.6.3)
LEAKING = (
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "promote_trigger_file",
)
_TARGETS = {"time": "recovery_target_time", "xid": "recovery_target_xid"}
_TARGETS |= {"lsn": "recovery_target_lsn", "name": "recovery_target_name"}
_SETTING = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=?")


def recovery_settings(
    target: RecoveryTarget, timeline: int, restore_command: str, action: str, *, standby: bool = False
) -> dict[str, str]:
    """The settings of one recovery; every target that is not meant is set empty, as the source's
    postgresql.conf may hold one and PostgreSQL refuses two.

    Args:
        target: where to stop.
        timeline: to follow.
        restore_command: as PostgreSQL will call it.
        action: pause, promote or shutdown.
        standby: follow for ever; there is no target then.
    """
    settings = {name: "" for name in ("recovery_target", *_TARGETS.values())}
    settings["restore_command"] = restore_command
    # a tablespace that lies in place, such as one that was dropped since, must not stop recovery
    settings["allow_in_place_tablespaces"] = "on"
    settings["recovery_target_timeline"] = "latest" if standby else str(timeline)
    if standby:
        return settings
    settings["recovery_target_inclusive"] = "off" if target.exclusive else "on"
    # without a target the end of WAL is the target, and the server promotes by itself
    settings["recovery_target_action"] = action
    chosen = "recovery_target" if target.kind == "immediate" else _TARGETS.get(target.kind)
    if chosen is not None:
        # last, as PostgreSQL refuses an empty one that follows it (assign_recovery_target and its siblings)
        del settings[chosen]
        settings[chosen] = target.value or target.kind
    return settings


def write_settings(data: Path, settings: dict[str, str]) -> list[str]:
    """Rewrite postgresql.auto.conf: the source's own settings stay, those that leak are replaced.

    Returns:
        the source's lines that were replaced, without those of an earlier recovery.
    """
    lines = _read(data)
    replaced = set(LEAKING) | set(settings)
    kept = [line for line in lines if _name(line) not in replaced and line != _HEADING]
    kept += [_HEADING, *(_line(name, value) for name, value in settings.items())]
    _write(data, kept)
    return [line for line in lines if _name(line) in replaced - set(LEAKING)]


def _read(data: Path) -> list[str]:
    """The lines of postgresql.auto.conf; only a line feed ends one, as other separators may stand in a value."""
    path = data / _FILE
    text = path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""
    return text.removesuffix("\n").split("\n") if text else []


def _write(data: Path, lines: Sequence[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
    replace_file(data / _FILE, content)


def displaced(data: Path, settings: Mapping[str, str], known: Sequence[str]) -> tuple[str, ...]:
    """Lines of postgresql.auto.conf that the settings of a restore take the place of, without its own.

    Args:
        data: the data directory.
        settings: of the restore.
        known: such lines as its record has them; what stands in the file now is newer.
    """
    own = {_line(name, value) for name, value in settings.items()}
    names = settings.keys() - set(LEAKING)
    now = [line for line in _read(data) if _name(line) in names and line not in own]
    there = {_name(line) for line in now}
    return (*(line for line in known if _name(line) not in there), *now)


def take_out(data: Path, settings: Mapping[str, str], replaced: Sequence[str], keep: Collection[str]) -> None:
    """Take out of postgresql.auto.conf what a restore wrote, and put back what stood there before.

    Recovery settings go whatever they say now; another that somebody has changed since is theirs. The file is
    replaced in one step.

    Args:
        data: the data directory.
        settings: that the restore wrote.
        replaced: lines of the source's that it replaced.
        keep: names of settings that stay.
    """
    gone = {_HEADING, *(_line(name, value) for name, value in settings.items() if name not in keep)}
    lines = [line for line in _read(data) if line not in gone and _name(line) not in LEAKING]
    names = {_name(line) for line in lines}
    _write(data, [*lines, *(line for line in replaced if _name(line) not in names)])


def setting_of(line: str) -> tuple[str, str] | None:
    """Name and value of a line of postgresql.auto.conf; None when it has none."""
    match = _SETTING.match(line)
    if match is None:
        return None
    value = line[match.end() :].strip()
    return match[1].lower(), value[1:-1].replace("''", "'") if value.startswith("'") else value


def _line(name: str, value: str) -> str:
    return f"{name} = {quote(value)}"


def _name(line: str) -> str | None:
    match = _SETTING.match(line)
    return match[1].lower() if match else None


def quote(value: str) -> str:
    """A value as a configuration file takes it (``GUC_scanstr``)."""
    return (
        "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\r", "\\r") + "'"
    )
