"""The check of what lies beside backups and WAL: fences with their objects, proofs, holds and received parts are read.

No restore needs these bytes, so that nothing else would notice that they changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.held import temporary_directory
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import SegmentHeader, check_segment
from pgproof.validation.catalogs.objects import HeldObjects
from pgproof.validation.fences.fence import Fence
from pgproof.validation.proof import Proof
from pgproof.wal.archive import part_end
from pgproof.wal.parts import list_parts

_Check = Callable[[], None]


def check_evidence(archive: Archive, pool: Executor) -> tuple[int, list[ObjectDamaged]]:
    """Read every record and object that is neither a backup nor whole WAL.

    Args:
        archive: of one system identifier.
        pool: threads to read with.

    Returns:
        how many were read, and what is wrong with those that are damaged.

    Raises:
        ConfigError: an object is encrypted and no age identity is configured.
    """
    checks = list(_checks(archive))
    found = list(pool.map(_fault, checks))
    return len(found), [fault for fault in found if fault is not None]


def _checks(archive: Archive) -> Iterator[_Check]:
    layout, store = archive.layout, archive.store
    kinds: list[tuple[str, Callable[[Archive, str], None]]] = [
        (layout.fences, _fence),
        (layout.proofs, _proof),
        (layout.holds, _record),
    ]
    for prefix, check in kinds:
        for info in store.list(prefix):
            if info.key.endswith(".json"):
                yield partial(check, archive, info.key)
    for part in list_parts(archive):
        yield partial(_part, archive, part.name, part.key)


def _fault(check: _Check) -> ObjectDamaged | None:
    try:
        check()
    except ObjectMissing:  # removed meanwhile; a fence's objects are told by _fence
        return None
    except ObjectDamaged as error:
        return error
    return None


def _record(archive: Archive, key: str) -> None:
    archive.read_json(key)


def _proof(archive: Archive, key: str) -> None:
    """A proof, and each object that it names, by size and SHA-256 of what is stored."""
    tree = archive.read_json(key)
    if key.count("/") > archive.layout.proofs.count("/"):  # Great Expectations' results of older versions
        return
    for item in Proof.from_dict(tree).evidence:
        try:
            for _ in archive.open_checked(item):
                pass
        except ObjectMissing as error:
            raise ObjectDamaged(f'object "{item.key}" is missing', f'Proof "{key}" names it.') from error


def _fence(archive: Archive, key: str) -> None:
    fence = Fence.from_dict(archive.read_json(key))
    if fence.objects is None:
        return
    try:
        with temporary_directory("objects") as directory:
            with open(directory / "objects", "wb") as file:
                file.writelines(archive.open_checked(fence.objects))
            held = HeldObjects(Path(file.name))
            for database in fence.databases:
                found = held.of(database.database)
                if database.cut is not None and (found is None or not list(found.catalogs)):
                    raise ObjectDamaged(f'object "{fence.objects.key}" lacks database "{database.database}"')
    except ObjectMissing as error:
        raise ObjectDamaged(f'object "{fence.objects.key}" is missing', f'Fence "{key}" names it.') from error


def _part(archive: Archive, name: str, key: str) -> None:
    """A part decodes, begins as its segment does, and ends in nothing but zeros."""
    content = archive.read_whole(key, 1 << 30)  # the largest segment
    header = SegmentHeader.parse(content[:64], name)
    check_segment(name, header, len(content))
    if content[part_end(key) :].strip(b"\0"):
        raise ObjectDamaged(f'received part "{key}" is damaged', "It has bytes after its end.")
