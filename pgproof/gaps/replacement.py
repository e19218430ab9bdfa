"""A replacement: the content of one segment from another place, verified before anything in the archive is touched.

Order, for a segment that is missing:

1. the content is read from the places into temporary files, and checked: pages, its records together with those of
   its archived neighbours, and that the place has the same neighbours;
2. it is stored with *create*;
3. it is read back.

For one that is damaged:

1. as above: without a verified replacement nothing is touched;
2. the stored bytes are copied to ``damaged/``, as they are;
3. the replacement is stored under the segment's key, in one step that a reader sees whole or not at all; or, when the
   codec has changed since, beside it, and then the damaged object is removed;
4. it is read back.

A crash leaves after 1 the old state, after 2 that and a copy of the damaged bytes, after 3 the mended one. At no moment
is the segment missing that was there: a recovery that asked then would take "not archived" for the end of WAL and
open the server too early, where a damaged segment stops it. That is why the damaged object is replaced, rather than
removed and created anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgproof.errors import (
    NoRoom,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    PgproofError,
    TransientError,
    WalConflict,
)
from pgproof.gaps.places import Place
from pgproof.held import temporary_directory
from pgproof.repository.codec import Measured
from pgproof.repository.repository import Archive
from pgproof.repository.store import CHUNK
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from pgproof.wal.catch_up import said
from pgproof.wal.chain import check_chain
from pgproof.wal.survey import Survey
from pgproof.wal.window import Loader, write_file


@dataclass(frozen=True, slots=True)
class Replacement:
    """Verified content of one segment.

    Args:
        segment: whose it is.
        path: of a temporary file that holds it.
        sha256: of the content.
        place: that had it.
    """

    segment: WalSegment
    path: Path
    sha256: str
    place: str

    def chunks(self) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk


Answers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Search:
    """Looks for replacements.

    Args:
        archive: that is repaired.
        survey: what lies around its segments.
        places: in the order in which they are preferred.
        bin_directory: with a pg_waldump of the cluster's major version; None checks pages only.
    """

    archive: Archive
    survey: Survey
    places: Sequence[Place]
    bin_directory: Path | None

    def find(
        self, segment: WalSegment, doubted: Collection[WalSegment], directory: Path
    ) -> tuple[Replacement | None, Answers]:
        """Ask every place for a segment.

        All are asked, for two that have it must have the same: otherwise two servers have archived to one place,
        and which of their futures is wanted is not for a program to guess.

        Args:
            segment: that is missing or damaged.
            doubted: archived segments that are no witnesses, because they are damaged themselves.
            directory: for the content.

        Returns:
            the replacement, and what each place answered; none when no place has it, or they differ.

        Raises:
            NoRoom: the directory is full.
            StoreUnavailable: the archive itself could not be read.
        """
        found: list[Replacement] = []
        answers: list[tuple[str, str]] = []
        for number, place in enumerate(self.places):
            path = directory / f"{segment}.{number}"
            try:
                digest = _fetched(place, segment, path)
            except NoRoom:
                raise
            except PgproofError as error:
                answers.append((place.name, said(error)))
                continue
            replacement = Replacement(segment, path, digest, place.name)
            if fault := self._fault(replacement, doubted) or self._another(
                place, segment, doubted, directory
            ):
                answers.append((place.name, fault))
                continue
            found.append(replacement)
            answers.append((place.name, f"has it, SHA-256 {digest}"))
        if len({replacement.sha256 for replacement in found}) > 1:
            return None, (*answers, ("conflict", "they are all valid and not the same; none was chosen"))
        return (found[0] if found else None), tuple(answers)

    def _fault(self, replacement: Replacement, doubted: Collection[WalSegment]) -> str:
        """Why this content is not that of the segment; empty when it is."""
        segment = replacement.segment
        with temporary_directory("wal") as directory:
            loader = Loader(self.archive, self.survey, directory, segment.timeline)
            try:
                link = loader.load(segment, replacement.chunks())
            except ObjectDamaged as error:
                return said(error)
            if self.bin_directory is None:
                return ""
            before = loader.neighbours(segment, _without(self.survey.before, doubted))[::-1]
            after = loader.neighbours(segment, _without(self.survey.after, doubted))
            chain = check_chain(self.bin_directory, [*before, link, *after], len(after))
            return chain.faults.get(segment, "")

    def _another(
        self, place: Place, segment: WalSegment, doubted: Collection[WalSegment], directory: Path
    ) -> str:
        """Why a place is another server's of the same timeline; empty when nothing contradicts it.

        Two clones that were promoted to one number write segments of the same names, and where they have written
        records of the same lengths, even the links between these fit. What both have must be the same; what a place
        has damaged says nothing.
        """
        for step in (self.survey.before, self.survey.after):
            neighbour = _without(step, doubted)(segment)
            if neighbour is None or neighbour.timeline != segment.timeline:
                continue  # what a server has of a timeline that it left may end at the fork
            path = directory / f"{neighbour}.witness"
            with suppress(ObjectMissing, ObjectDamaged, TransientError):
                theirs = Replacement(neighbour, path, _fetched(place, neighbour, path), place.name)
                archived = _content_digest(self.archive, find_key(self.archive, neighbour.name))
                if archived not in ("", theirs.sha256) and not self._fault(theirs, doubted):
                    return (
                        f"another server's WAL of the same timeline: its {neighbour} has SHA-256 {theirs.sha256}, "
                        f"archived is {archived}"
                    )
        return ""


def _without(
    step: Callable[[WalSegment], WalSegment | None], doubted: Collection[WalSegment]
) -> Callable[[WalSegment], WalSegment | None]:
    def trusted(segment: WalSegment) -> WalSegment | None:
        found = step(segment)
        return None if found in doubted else found

    return trusted


def _fetched(place: Place, segment: WalSegment, path: Path) -> str:
    """Write what a place has into a file; its SHA-256."""
    measured = Measured(place.segment(segment))
    write_file(path, measured)
    return measured.sha256


def put(archive: Archive, replacement: Replacement, now: datetime, *, damaged: bool) -> bool:
    """Put a replacement in place; whether that changed anything.

    Raises:
        as ``put_missing`` and ``put_damaged``.
    """
    if damaged:
        return put_damaged(archive, replacement, now)
    put_missing(archive, replacement)
    return True


def put_missing(archive: Archive, replacement: Replacement) -> None:
    """Put the content of a missing segment in place.

    Somebody else may be quicker: the archiver, or another repair. The same content is as good.

    Raises:
        WalConflict: then there is other content under its name.
        StoreUnavailable, NoRoom, RepositoryReadOnly: it is still missing.
    """
    with suppress(ObjectExists):
        archive.write(archive.layout.wal_file(replacement.segment.name), replacement.chunks(), create=True)
    _read_back(archive, replacement)


def put_damaged(archive: Archive, replacement: Replacement, now: datetime) -> bool:
    """Put the content of a damaged segment in place, and keep the damaged bytes aside.

    Args:
        archive: that has it.
        replacement: verified.
        now: aware; names the copy of the damaged bytes.

    Returns:
        whether that was needed: not when the stored content is the same, since its neighbour was the damaged one.

    Raises:
        WalConflict: somebody changed the object meanwhile.
        StoreUnavailable, NoRoom, RepositoryReadOnly: the damaged one is still there.
    """
    layout, name = archive.layout, replacement.segment.name
    try:
        damaged = find_key(archive, name)
    except ObjectMissing:  # removed since it was looked at
        put_missing(archive, replacement)
        return True
    before = _stored_digest(archive, damaged)
    if _content_digest(archive, damaged) == replacement.sha256:
        return False
    aside = f"{layout.damaged}{now:%Y%m%dT%H%M%S%fZ}-{damaged.rsplit('/', 1)[-1]}"
    with suppress(ObjectExists):  # a repair that was given the same time; the comparison decides
        archive.store.put(aside, archive.store.get(damaged), create=True)
    kept = _stored_digest(archive, aside)
    if kept != before:
        raise WalConflict(
            f'WAL segment "{name}" was changed while it was repaired',
            f"Stored were bytes with SHA-256 {before}, then {kept}. Nothing was replaced.",
            "another repair may run; pgproof wal check NAME --content --repair looks again",
        )
    stored = archive.write(layout.wal_file(name), replacement.chunks())
    if stored.key != damaged:  # written by another codec, which is looked for second
        archive.store.delete(damaged)
    _read_back(archive, replacement)
    return True


def _read_back(archive: Archive, replacement: Replacement) -> None:
    """Success is said only of what the repository shows."""
    key = find_key(archive, replacement.segment.name)
    digest = _content_digest(archive, key)
    if digest != replacement.sha256:
        raise WalConflict(
            f'WAL segment "{replacement.segment}" is archived with other content',
            f"Archived is SHA-256 {digest or '(unreadable)'}, {replacement.place} has {replacement.sha256}.",
            "find out which server archives here, and set the other's archive_mode to off",
        )


def _stored_digest(archive: Archive, key: str) -> str:
    measured = Measured(archive.store.get(key))
    for _ in measured:
        pass
    return measured.sha256


def _content_digest(archive: Archive, key: str) -> str:
    """The SHA-256 of stored content; empty when it cannot be read."""
    measured = Measured(archive.open(key))
    try:
        for _ in measured:
            pass
    except ObjectDamaged:
        return ""
    return measured.sha256
