"""A copy is another repository that gets every WAL file; one that was away is brought up to date from the main one."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from pgproof.errors import ObjectExists, PgproofError
from pgproof.repository.layout import without_suffix
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import SEGMENT_NAME, WalSegment
from pgproof.wal.pages import checked_pages


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What one copy got.

    Args:
        name: of its repository.
        brought: WAL files that it lacked and has now.
        mended: segments that it had damaged and has whole now.
        failed: those that it still lacks or has damaged, each with the reason.
        error: why nothing could be done at all; empty otherwise.
    """

    name: str
    brought: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.failed and not self.error

    def as_dict(self) -> dict[str, Any]:
        failed = [{"name": name, "reason": reason} for name, reason in self.failed]
        return asdict(self) | {"failed": failed, "ok": self.ok}


def catch_up(
    archive: Archive, name: str, copy: Archive, segment_size: int, workers: int, doubted: Collection[str] = ()
) -> CopyReport:
    """Bring a copy every WAL file that the main repository has and it lacks; nothing in it is ever replaced.

    Args:
        archive: the main repository's.
        name: of the copy's repository.
        copy: the same cluster's archive in it.
        segment_size: in bytes.
        workers: files at once.
        doubted: names of segments that are damaged in the main repository, and not brought.
    """
    try:
        there = {without_suffix(info.key) for info in copy.store.list(copy.layout.wal)}
        keys = {without_suffix(info.key): info.key for info in archive.store.list(archive.layout.wal)}
    except PgproofError as error:
        return CopyReport(name, error=said(error))
    wanted = [key for base, key in sorted(keys.items()) if base not in there and _name(base) not in doubted]
    with ThreadPoolExecutor(workers, "copy") as pool:
        faults = list(pool.map(lambda key: _bring(archive, copy, key, segment_size), wanted))
    done = list(zip((_name(key) for key in wanted), faults, strict=True))
    return CopyReport(
        name,
        tuple(file for file, fault in done if not fault),
        failed=tuple((file, fault) for file, fault in done if fault),
    )


def _bring(archive: Archive, copy: Archive, key: str, segment_size: int) -> str:
    """Copy one file through both codecs; why that failed, if it did."""
    name = _name(key)
    try:
        content = archive.open(key)
        if SEGMENT_NAME.fullmatch(name):
            segment = WalSegment.parse(name, segment_size)
            content = checked_pages(segment, content, archive.system_identifier)
        copy.write(without_suffix(key), content, create=True)
    except ObjectExists:  # the archiver was quicker
        return ""
    except PgproofError as error:
        return said(error)
    return ""


def _name(key: str) -> str:
    return without_suffix(key).rsplit("/", 1)[-1]


def said(error: PgproofError) -> str:
    """An error as an answer, on one line."""
    return f"{error.fact}. {error.detail}" if error.detail else error.fact
