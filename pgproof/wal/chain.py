"""The record chain: every record of WAL with a valid CRC and the address of the one before it.

``pg_waldump`` of the cluster's own major version reads it (``ValidXLogRecord`` of xlogreader.c). It stops at the first
record that is not valid, and says the same whether that is damage or just the end of WAL; which of both it is, the
pages around it decide.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.errors import PermanentError
from pgproof.postgres.programs import run
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.breaks import Break, reset_at
from pgproof.wal.pages import LONG, SegmentPages, end_of_record

_TIMEOUT = 3600.0  # seconds; a gigabyte takes about two
_SWITCH = re.compile(
    r"^rmgr: XLOG .*, lsn: ([0-9A-F]+/[0-9A-F]+), prev [^,]*, desc: SWITCH\s*$", re.MULTILINE
)
# the record that a server writes at its start when such a setting was changed (XLogReportParameters)
_MINIMAL = re.compile(
    r"^rmgr: XLOG .*, lsn: ([0-9A-F]+/[0-9A-F]+), prev [^,]*, desc: PARAMETER_CHANGE .*\bwal_level=minimal\b",
    re.MULTILINE,
)
_STOPPED = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+): (.*)", re.DOTALL)
_NO_RECORD = re.compile(r"could not find a valid record after [0-9A-F]+/[0-9A-F]+.*", re.DOTALL)
_TOTAL_LENGTH = struct.Struct("=I")
_HEADER_LENGTH = 24  # SizeOfXLogRecord
_BEGINNING = 64  # bytes of a segment, up to the first record's header
_LARGEST = 1020 << 20  # XLogRecordMaxSize


@dataclass(frozen=True, slots=True)
class Link:
    """A segment of a chain: its pages are good, and its file lies in the chain's directory.

    Args:
        pages: what they say.
        path: of the file, named as pg_waldump is told.
        ends_wal: no segment follows it in the archive, so WAL may end within it.
    """

    pages: SegmentPages
    path: Path
    ends_wal: bool = False

    @property
    def segment(self) -> WalSegment:
        return self.pages.segment


@dataclass(slots=True)
class Chain:
    """What was found in a chain: damaged segments, each with what is wrong, and where no recovery goes past."""

    faults: dict[WalSegment, str] = field(default_factory=dict)
    breaks: dict[WalSegment, Break] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Records of interest that pg_waldump listed: those that switched a segment, and those that break recovery."""

    switches: list[LSN]
    breaks: list[LSN]


@dataclass(frozen=True, slots=True)
class _Stop:
    """Where pg_waldump stopped: the start of the record that it could not read, and what it said."""

    record: LSN
    before: LSN | None
    message: str


def check_chain(bin_directory: Path, links: Sequence[Link], beside: int = 0) -> Chain:
    """Read every record that starts in segments that follow one another.

    Args:
        bin_directory: with a pg_waldump of the cluster's major version.
        links: in order, without a gap, all in one directory under one timeline.
        beside: how many of the last are only there for what ties them to the one before.

    Returns:
        what was found. A record that crosses a border names every segment that it reaches into: the CRC does not
        tell in which one the damage is.

    Raises:
        PermanentError: pg_waldump failed for another reason.
    """
    found = Chain()
    faults = found.faults
    first = 0
    while first < len(links) - beside:
        part = links[first:]
        if all(link.pages.first_record is None for link in part):
            break  # one record that began earlier fills them all
        stop, seen = _waldump(bin_directory, part, _end(part, beside))
        for lsn in seen.breaks:
            holder = next(link.segment for link in part if link.segment.end > lsn)
            found.breaks.setdefault(holder, Break(holder, lsn))
        for segment, fault in _after_switch(part, seen.switches).items():
            faults.setdefault(segment, fault)
        if stop is None:
            break
        holds = (index for index, link in enumerate(links) if link.segment.end > stop.record)
        index = next(holds, len(links) - 1)
        if index > first and (reset := _reset(links[index], stop)):
            found.breaks.setdefault(reset.segment, reset)
            first = index
            continue
        if not _is_end(links[index], stop):
            for segment, fault in _suspects(links, index, stop).items():
                faults.setdefault(segment, fault)
        first = index + 1
    return found


def _end(part: Sequence[Link], beside: int) -> LSN:
    """Where to stop: after the page on which the first record beyond the last border starts.

    Its address of the record before it is what ties the two segments together when no record crosses the border.
    """
    own = part[len(part) - beside - 1].segment.end
    for link in part[len(part) - beside :]:
        pages = link.pages
        if pages.first_record is not None:
            return LSN(link.segment.start - -pages.first_record // pages.block_size * pages.block_size)
        own = link.segment.end
    return own


def _waldump(bin_directory: Path, part: Sequence[Link], end: LSN) -> tuple[_Stop | None, _Seen]:
    first = next(link for link in part if link.pages.first_record is not None)
    start = LSN(first.segment.start + (first.pages.first_record or 0))
    timeline = int(first.path.name[:8], 16)
    command: list[str | Path] = [bin_directory / "pg_waldump", "-p", first.path.parent, "-t", str(timeline)]
    try:
        done = run([*command, "-s", str(start), "-e", str(end), "--rmgr=XLOG"], timeout=_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise _failed(f"{error}") from error
    seen = _Seen(*([LSN.parse(text) for text in form.findall(done.stdout)] for form in (_SWITCH, _MINIMAL)))
    if done.returncode == 0:
        return None, seen
    message = " ".join(done.stderr.strip().split()).removeprefix("pg_waldump: error: ")
    if match := _STOPPED.search(message):
        before = LSN.parse(match[1])
        return _Stop(_next_record(part, before, before in seen.switches), before, match[2]), seen
    if match := _NO_RECORD.search(message):
        return _Stop(start, None, match[0]), seen
    raise _failed(message[-600:] or f"exit code {done.returncode}")


def _failed(reason: str) -> PermanentError:
    return PermanentError(
        "cannot check the records of WAL",
        f"pg_waldump failed: {reason.rstrip('.')}.",
        "bin_directory in the cluster's section names the programs of its major version",
    )


def _after_switch(part: Sequence[Link], switches: Sequence[LSN]) -> dict[WalSegment, str]:
    """Segments with anything but zeros after the record that ended them (``pg_switch_wal``)."""
    faults = {}
    for switch in switches:
        size, block = part[0].segment.size, part[0].pages.block_size
        end = end_of_record(switch, _HEADER_LENGTH, size, block)
        link = next((link for link in part if link.segment.start < end <= link.segment.end), None)
        if link is not None and link.segment.start + link.pages.content_end > end:
            faults[link.segment] = (
                f"the segment was switched at LSN {switch}, and what follows is not empty up to "
                f"LSN {LSN(link.segment.start + link.pages.content_end)}"
            )
    return faults


def _is_end(link: Link, stop: _Stop) -> bool:
    """Whether WAL just ends here: nothing but zeros follows, and no other segment does."""
    return link.ends_wal and link.segment.start + link.pages.content_end <= stop.record


def _reset(link: Link, stop: _Stop) -> Break | None:
    """The break where pg_resetwal began new WAL, when reading stopped at its first record."""
    with open(link.path, "rb") as file:
        found = reset_at(link.segment, file.read(_BEGINNING))
    return found if found and found.lsn == stop.record else None


def _suspects(links: Sequence[Link], index: int, stop: _Stop) -> dict[WalSegment, str]:
    """The segments that may be to blame, each with what is wrong."""
    link = links[index]
    fault = f'the record at LSN {stop.record} is not valid: pg_waldump says "{stop.message}"'
    suspects = [link.segment]
    if "prev-link" in stop.message and stop.before is not None and stop.before < link.segment.start:
        suspects.insert(0, links[index - 1].segment)
    else:
        end = _end_of(link, stop)
        suspects += [following.segment for following in links[index + 1 :] if following.segment.start < end]
    if len(suspects) > 1:
        fault += f"; it reaches from {suspects[0]} to {suspects[-1]}: one of them is damaged"
    return dict.fromkeys(suspects, fault)


def _end_of(link: Link, stop: _Stop) -> int:
    """Where the record ends at which reading stopped, as far as its length can be trusted."""
    length = _length_at(link, stop.record)
    if length < _HEADER_LENGTH:
        return stop.record
    if length > _LARGEST:
        return link.segment.end + 1
    end = end_of_record(stop.record, length, link.segment.size, link.pages.block_size)
    return end - LONG if end % link.segment.size == LONG else end  # it may end with its segment


def _next_record(part: Sequence[Link], before: LSN, switched: bool) -> LSN:
    """The start of the record after one; after a switch that is the next segment's first."""
    link = next(link for link in part if link.segment.end > before)
    size, block = link.segment.size, link.pages.block_size
    end = end_of_record(before, _length_at(link, before), size, block)
    return LSN(-(-end // size) * size + LONG) if switched else end


def _length_at(link: Link, record: LSN) -> int:
    """``xl_tot_len`` of the record at an LSN; it never crosses a page, for records are aligned."""
    with open(link.path, "rb") as file:
        file.seek(record - link.segment.start)
        return int(_TOTAL_LENGTH.unpack(file.read(_TOTAL_LENGTH.size))[0])
