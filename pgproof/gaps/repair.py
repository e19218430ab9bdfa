"""A repair brings back WAL that the archive lacks or has damaged, from wherever it still is.

Looked for in the other repositories, on the source, and on its standbys, in this order; the replacement of one segment
is the matter of :mod:`pgproof.gaps.replacement`. Then the other repositories get what the main one has and they lack.

No lease is taken, and none is needed. What is missing is only ever *created*: the archiver, or a second repair, that
stores the same segment at the same moment either comes first, and then its content is compared, or finds ours and
compares it. What is damaged nobody else writes: ``wal push`` refuses a name that is taken. Two repairs of one damaged
segment each have the same verified content in hand, for all places must agree on it; each keeps the damaged bytes
aside, and whichever comes second finds them replaced and leaves them. Expire may remove a segment that was just
brought back, when nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from pgproof.backups.catalog import read_catalog
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError, WalConflict
from pgproof.gaps.check import WalCheck
from pgproof.gaps.histories import find_history
from pgproof.gaps.places import Place, RepositoryPlace, places_of
from pgproof.gaps.replacement import Answers, Search, put
from pgproof.held import temporary_directory
from pgproof.repository.layout import without_suffix
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import HISTORY_NAME, SEGMENT_NAME, WalSegment
from pgproof.wal.catch_up import CopyReport, catch_up, said
from pgproof.wal.content import check_content_for, waldump_directory
from pgproof.wal.survey import Row, Span, take_survey

_NEAR = 16  # segments on each side of a victim that the survey remembers the keys of
MISSING, DAMAGED = "missing", "damaged"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A file that was brought back: from which place, and what it had been: ``missing`` or ``damaged``."""

    name: str
    place: str
    was: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A file that was not: what it is, and what each place answered."""

    name: str
    was: str
    answers: Answers


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    Args:
        repaired: brought back, verified and in place.
        lost: no place has it, or it could not be put in place.
        intact: segments in doubt whose content is that of the source all the same.
        copies: what the other repositories got.
    """

    repaired: tuple[Repaired, ...] = ()
    lost: tuple[Lost, ...] = ()
    intact: tuple[str, ...] = ()
    copies: tuple[CopyReport, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.lost and all(copy.ok for copy in self.copies)

    @property
    def changed(self) -> bool:
        """Whether anything is another than it was."""
        return bool(self.repaired) or any(copy.brought or copy.mended for copy in self.copies)

    def as_dict(self) -> dict[str, Any]:
        tree = asdict(self) | {"copies": [copy.as_dict() for copy in self.copies]}
        for lost in tree["lost"]:
            lost["answers"] = [{"place": place, "answer": answer} for place, answer in lost["answers"]]
        return tree | {"ok": self.ok}


def repair_wal(
    cluster: ClusterConfig,
    archive: Archive,
    copies: Mapping[str, Archive | PgproofError],
    found: WalCheck,
    now: datetime,
) -> RepairReport:
    """Bring back what a check found missing or damaged, then bring the other repositories up to date.

    Args:
        cluster: whose source and standbys are asked.
        archive: to repair.
        copies: the other repositories by name, as ``open_copies`` gives them. Their content is checked, too, when
            that of the archive was.
        found: the check.
        now: aware.

    Raises:
        StoreUnavailable, RepositoryReadOnly, NoRoom: the archive cannot be read, or nothing can be written to it.
    """
    newest = found.report.newest
    if newest is None:
        return RepairReport()
    needed: list[Span] = [*found.report.needed, *found.report.gaps]
    task = _Task(cluster, archive, needed, _major(archive), now, newest.size)
    missing = {segment for gap in found.report.gaps for segment in _each(gap)}
    damaged = {WalSegment.parse(name, newest.size) for name, _ in found.report.damaged}
    places = places_of(cluster, archive.system_identifier, copies)
    try:
        histories = _bring_histories(task, places)
        segments = _bring_segments(task, places, missing, damaged)
    finally:
        for place in places:
            place.close()
    lost = (*histories.lost, *segments.lost)
    doubted = {one.name for one in lost}
    content = found.content is not None
    return RepairReport(
        (*histories.repaired, *segments.repaired),
        lost,
        segments.intact,
        tuple(_mend_copy(task, name, copy, doubted, content) for name, copy in copies.items()),
    )


def lost_windows(report: RepairReport, after: WalCheck) -> list[tuple[str, str]]:
    """The recovery windows that end early for what was lost: backup, and a line about it."""
    found = []
    for window in after.report.windows:
        for one in report.lost:
            if not SEGMENT_NAME.fullmatch(one.name):
                continue
            segment = WalSegment.parse(one.name, _size_of(after))
            inside = segment.timeline <= window.timeline and window.start < segment.end <= window.end
            if window.broken_by == segment or (one.was == DAMAGED and inside):
                text = f"from backup {window.backup} on timeline {window.timeline} nothing after LSN {segment.start}"
                found.append((window.backup, text))
                break
    return found


def _size_of(found: WalCheck) -> int:
    newest = found.report.newest
    return newest.size if newest else 16 << 20


@dataclass(frozen=True)
class _Task:
    """What a repair works on: the archive, what recoveries need of it, the cluster's major version (0 unknown)."""

    cluster: ClusterConfig
    archive: Archive
    needed: Sequence[Span]
    major: int
    now: datetime
    segment_size: int


def _major(archive: Archive) -> int:
    entries = read_catalog(archive).entries
    return entries[-1].record.major if entries else 0


def _each(span: Span) -> Iterator[WalSegment]:
    segment = span.first
    while segment <= span.last:
        yield segment
        segment = segment.next()


def _mend_copy(
    task: _Task, name: str, copy: Archive | PgproofError, doubted: set[str], content: bool
) -> CopyReport:
    """Bring one copy what it lacks and, after a look at its content, what it has damaged."""
    if isinstance(copy, PgproofError):
        return CopyReport(name, error=said(copy))
    cluster, main = task.cluster, task.archive
    report = catch_up(main, name, copy, task.segment_size, cluster.wal.workers, doubted)
    if report.error or not content:
        return report
    try:
        found = check_content_for(cluster, copy, task.needed, task.major, task.now)
        damaged = {WalSegment.parse(damaged, task.segment_size) for damaged, _ in found.damaged}
        place = RepositoryPlace(cluster.repository, main)
        mended = _bring_segments(replace(task, archive=copy), [place], set(), damaged)
    except PgproofError as error:
        return replace(report, error=said(error))
    failed = tuple((one.name, "; ".join(answer for _, answer in one.answers)) for one in mended.lost)
    names = tuple(one.name for one in mended.repaired)
    return replace(report, mended=names, failed=(*report.failed, *failed))


class _Near:
    """Of a survey only the neighbourhood of victims is of interest."""

    def __init__(self, victims: Iterable[WalSegment]) -> None:
        self._numbers = {v.number + offset for v in victims for offset in range(-_NEAR, _NEAR + 1)}

    def keep(self, segment: WalSegment, modified: float) -> bool:
        return segment.number not in self._numbers

    def forget(self, segment: WalSegment) -> None:
        """Nothing is known of any."""


def _bring_segments(
    task: _Task, places: Sequence[Place], missing: set[WalSegment], damaged: set[WalSegment]
) -> RepairReport:
    victims = sorted(missing | damaged)
    if not victims:
        return RepairReport()
    archive = task.archive
    spans = [*task.needed, *(Row(segment, segment) for segment in victims)]
    survey = take_survey(archive, spans, _Near(victims))
    search = Search(archive, survey, places, waldump_directory(task.cluster, task.major))
    repaired: list[Repaired] = []
    lost: list[Lost] = []
    doubted = set(damaged)
    intact: list[str] = []
    for segment in victims:  # in order: what is brought back bears witness for the next
        was = MISSING if segment in missing else DAMAGED
        with temporary_directory("wal") as directory:
            replacement, answers = search.find(segment, doubted, directory)
            if replacement is None:
                lost.append(Lost(segment.name, was, answers))
                continue
            try:
                changed = put(archive, replacement, task.now, damaged=was == DAMAGED)
            except WalConflict as error:
                lost.append(Lost(segment.name, was, (*answers, ("archive", said(error)))))
                continue
        doubted.discard(segment)
        if changed:
            repaired.append(Repaired(segment.name, replacement.place, was))
        else:
            intact.append(segment.name)
    return RepairReport(tuple(repaired), tuple(lost), tuple(intact))


def _bring_histories(task: _Task, places: Sequence[Place]) -> RepairReport:
    """Bring back the history files of timelines that have WAL and no history."""
    archive = task.archive
    names = {without_suffix(info.key).rsplit("/", 1)[-1] for info in archive.store.list(archive.layout.wal)}
    known = {int(name[:8], 16) for name in names if HISTORY_NAME.fullmatch(name)}
    oldest: dict[int, str] = {}
    for name in sorted((name for name in names if SEGMENT_NAME.fullmatch(name)), reverse=True):
        oldest[int(name[:8], 16)] = name
    repaired: list[Repaired] = []
    lost: list[Lost] = []
    for timeline in sorted(set(oldest) - known - {1}):
        name = f"{timeline:08X}.history"
        first = WalSegment.parse(oldest[timeline], task.segment_size)
        found, answers = find_history(archive, first, places, waldump_directory(task.cluster, task.major))
        if found is None:
            lost.append(Lost(name, MISSING, answers))
            continue
        archive.write(archive.layout.wal_file(name), [found[1]], create=True)
        repaired.append(Repaired(name, found[0], MISSING))
    return RepairReport(tuple(repaired), tuple(lost))
