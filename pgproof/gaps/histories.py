"""A missing history file from another place, and why it is believed: two servers may have made the same timeline.

The archive itself is asked first. Its oldest segment of the timeline cannot lie before the fork; and where that segment
holds the fork, the first record behind it says which timeline was left (``EndOfRecovery`` or the checkpoint instead of
it). Where the archive cannot tell, the place's own copy of that segment must be the archived one. Where that is gone,
too, only the source and other repositories are believed, never a standby.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from pgproof.errors import ObjectMissing, PgproofError
from pgproof.gaps.places import Place
from pgproof.gaps.replacement import Answers
from pgproof.held import temporary_directory
from pgproof.postgres.programs import run
from pgproof.repository.repository import Archive
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.catch_up import said
from pgproof.wal.pages import LONG, SHORT

_LSN = re.compile(r"^rmgr: .*?, lsn: ([0-9A-F]+/[0-9A-F]+)")
_SMALLEST_PAGE = 1024  # of WAL (configure --with-wal-blocksize)
_LEFT = re.compile(r"\btli (\d+); prev tli (\d+)")


def find_history(
    archive: Archive, oldest: WalSegment, places: Sequence[Place], bin_directory: Path | None
) -> tuple[tuple[str, bytes] | None, Answers]:
    """A history that every place which has it agrees on and nothing contradicts.

    Args:
        archive: that lacks it.
        oldest: the oldest archived segment of the timeline.
        places: that are asked.
        bin_directory: with a pg_waldump of the cluster's major version; None where there is none.

    Returns:
        the first place's name and the content; and what each answered. None when nobody has it, they differ, or what
        they have is not that of the archived timeline.
    """
    found: list[tuple[str, bytes]] = []
    answers: list[tuple[str, str]] = []
    believed: tuple[str, bytes] | None = None
    for place in places:
        try:
            content = place.history(oldest.timeline)
            history = TimelineHistory.parse(oldest.timeline, content.decode(errors="replace"))
        except PgproofError as error:
            answers.append((place.name, said(error)))
            continue
        found.append((place.name, content))
        doubt = _doubt(archive, oldest, history, place, bin_directory)
        answers.append((place.name, doubt or "has it"))
        if not doubt:
            believed = believed or (place.name, content)
    if len({content for _, content in found}) > 1:
        return None, (*answers, ("conflict", "two servers made this timeline; none was chosen"))
    return believed, tuple(answers)


def _doubt(
    archive: Archive, oldest: WalSegment, history: TimelineHistory, place: Place, bin_directory: Path | None
) -> str:
    """Why this history may not be that of the archived timeline; empty when it is."""
    if not history.forks:
        return "its history names no timeline that was left"
    fork = history.forks[-1]
    begins = WalSegment.containing(oldest.timeline, fork.lsn, oldest.size)
    if begins.number > oldest.number:
        return (
            f"another server's history: it says that timeline {oldest.timeline} begins at LSN {fork.lsn}, in {begins}, "
            f"and {oldest} is archived"
        )
    began = _begins_at(archive, oldest, fork, bin_directory) if begins == oldest else None
    if began is not None:
        where = f"in the archived {oldest} no timeline begins at LSN {fork.lsn}"
        return "" if began else f"another server's history: {where}"
    if (same := _has_the_same(archive, oldest, place)) is not None:
        return "" if same else f"another server's history: its {oldest} is not the archived one"
    if place.trusted:
        return ""
    return f"nothing tells whether its timeline {oldest.timeline} is the archived one, and the source was not asked"


def _begins_at(archive: Archive, segment: WalSegment, fork: Fork, bin_directory: Path | None) -> bool | None:
    """Whether a segment's timeline begins in it where a history says; None when it cannot be read.

    The first record behind the fork names both timelines; one before it may say that the old server had not finished
    its last one (``XLOG_OVERWRITE_CONTRECORD``).
    """
    if bin_directory is None:
        return None
    with temporary_directory("wal") as directory:
        with open(directory / segment.name, "wb") as file:
            file.writelines(archive.open(find_key(archive, segment.name)))
        words = ["-p", str(directory), "-t", str(segment.timeline), "-s", str(fork.lsn), "-n", "2"]
        try:
            done = run([bin_directory / "pg_waldump", *words], timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
    records = done.stdout.splitlines()
    at = _LSN.search(records[0]) if records else None
    if at is None:
        return None
    headers = (
        (SHORT, LONG) if fork.lsn % _SMALLEST_PAGE == 0 else (0,)
    )  # a record starts behind the header of a page
    if LSN.parse(at[1]) - fork.lsn not in headers:
        return False
    left = _LEFT.search(records[-1] if "OVERWRITE_CONTRECORD" in records[0] else records[0])
    return left is not None and (int(left[1]), int(left[2])) == (segment.timeline, fork.timeline)


def _has_the_same(archive: Archive, segment: WalSegment, place: Place) -> bool | None:
    """Whether a place's copy of an archived segment is the archived one; None when it has none."""
    try:
        theirs = sha256(b"".join(place.segment(segment))).digest()
    except PgproofError:
        return None
    try:
        return theirs == sha256(b"".join(archive.open(find_key(archive, segment.name)))).digest()
    except ObjectMissing:
        return None
