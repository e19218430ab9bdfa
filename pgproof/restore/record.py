"""A restore record lies in a restored data directory: what was planned, and what a start and an acceptance need.

It is in a directory of its own with the files that the server is started with until it is accepted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgproof.errors import DestinationRefused
from pgproof.postgres.control import wal_sizes
from pgproof.postgres.rights import acting_as, owner_of
from pgproof.repository.posix import sync_directory
from pgproof.repository.seal import strict_json
from pgproof.restore.plan import RestorePlan
from pgproof.restore.settings import quote
from pgproof.restore.whole_file import replace_file
from pgproof.timelines.lsn import LSN
from pgproof.wal.records import CommitRecord

DIRECTORY = "pgproof.restore"
TREE = "configuration"  # in it: the source's configuration files, under the paths that they had there
_RECORD = "record.json"
_CONF = "postgresql.conf"
HBA = "pg_hba.conf"
_FILES = {
    _CONF: "# a restored cluster without a postgresql.conf is started with this, and PostgreSQL's defaults\n",
    "pg_ident.conf": "",
    # last, as no server starts without it; the socket is in a directory that only the server's account may enter
    HBA: "local all all trust\n",
}
PAUSED, OPEN, FOLLOWING, SHUT_DOWN = "paused", "open", "following", "shut down"


@dataclass(frozen=True, slots=True)
class Expected:
    """A commit on one side of the recovery target, as the plan named it."""

    lsn: str
    xid: int
    time: str | None

    def __str__(self) -> str:
        return f"transaction {self.xid}{f' of {self.time}' if self.time else ''} at LSN {self.lsn}"

    @classmethod
    def of(cls, commit: CommitRecord | None) -> Expected | None:
        if commit is None:
            return None
        return cls(str(commit.lsn), commit.xid, f"{commit.time:%F %T.%f%z}" if commit.time else None)


@dataclass(frozen=True, slots=True)
class TakenFiles:
    """Paths that the source's configuration files had there; each None when the backup does not have it."""

    main: str | None = None
    hba: str | None = None
    ident: str | None = None


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """What a restored directory says of itself.

    Args:
        cluster: its name in pgproof.toml.
        backup: label.
        system_identifier: of the cluster.
        major: version of PostgreSQL.
        target: in words.
        timeline: that recovery follows.
        end: what the server does when recovery is there: paused, open, following or shut down.
        isolated: whether nobody else may notice it.
        least: LSN that recovery must reach at least.
        settings: what was written into postgresql.auto.conf.
        replaced: lines of the source's that stood there instead, without those of an earlier recovery.
        last: the last commit that will be there, when it is known.
        following: the first one that will not.
        config: path of pgproof.toml.
        role: that pgproof connects as; the cluster has it.
        bin_directory: of the server's programs; None looks for them.
        config_file: the configuration that the server was started with, when it is none in the directory.
        segment_size: bytes of a WAL segment.
        taken: the source's configuration that lies beside the record, from outside its data directory.
    """

    cluster: str
    backup: str
    system_identifier: int
    major: int
    target: str
    timeline: int
    end: str
    isolated: bool
    least: str
    settings: Mapping[str, str]
    replaced: tuple[str, ...] = ()
    last: Expected | None = None
    following: Expected | None = None
    config: str | None = None
    role: str | None = None
    bin_directory: str | None = None
    config_file: str | None = None
    segment_size: int = 16 << 20
    taken: TakenFiles | None = None

    def write(self, data: Path, owner: pwd.struct_passwd | None) -> None:
        """Write it with the files beside it; given to the server's account."""
        directory = data / DIRECTORY
        with acting_as(owner):
            directory.mkdir(mode=0o700, exist_ok=True)
        self.save(data, owner)
        files = dict(_FILES)
        # the defaults are too small for large segments
        sizes = wal_sizes(self.segment_size).items()
        files[_CONF] += "".join(f"{name} = '{value}'\n" for name, value in sizes)
        if self.taken and self.taken.main:
            files[_CONF] = f"include {quote(TREE + self.taken.main)}\n"
        for name, text in files.items():
            replace_file(directory / name, os.fsencode(text), owner)

    def save(self, data: Path, owner: pwd.struct_passwd | None) -> None:
        """Write it again, and no file beside it."""
        content = json.dumps(asdict(self), indent=2) + "\n"
        replace_file(data / DIRECTORY / _RECORD, os.fsencode(content), owner)


def read_record(data: Path) -> RestoreRecord:
    """The record of a restored directory.

    Raises:
        DestinationRefused: there is none.
    """
    try:
        content: dict[str, Any] = strict_json((data / DIRECTORY / _RECORD).read_bytes())
        for side in ("last", "following"):
            content[side] = content[side] and Expected(**content[side])
        taken = content.get("taken")
        content["taken"] = TakenFiles(**taken) if taken else None
        return RestoreRecord(**{**content, "replaced": tuple(content["replaced"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DestinationRefused(
            f'"{data}" is not a cluster that pgproof restored and nobody accepted yet',
            f"{DIRECTORY}/{_RECORD}: {reason}.",
            "pgproof restore NAME --to DIR makes one; one that was accepted is started as any other cluster",
        ) from error


def forget(data: Path) -> None:
    """Remove the record, which makes it a cluster as any other, and then the files beside it."""
    with acting_as(owner_of(data)):
        (data / DIRECTORY / _RECORD).unlink()
        sync_directory(data / DIRECTORY)
        shutil.rmtree(data / DIRECTORY, ignore_errors=True)  # what stays harms nothing


@contextlib.contextmanager
def held(data: Path) -> Iterator[None]:
    """One command at a time changes a restored cluster; the lock ends with the process, however that ends.

    Raises:
        DestinationRefused: another one works on it.
    """
    try:
        descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # whoever reads the record says more
        yield
        return
    try:
        _lock(descriptor, data)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, data: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DestinationRefused(
            f'another command works on "{data}"', "Nothing was changed.", "wait for its end, then try again"
        ) from error
    except OSError:
        return  # a file system without locks


@dataclass(frozen=True, slots=True)
class Site:
    """Where a restore happened: what its record keeps of it.

    Args:
        config: path of pgproof.toml.
        role: that pgproof connects as.
    """

    config: str | None = None
    role: str | None = None


NOWHERE = Site()


def record_of(
    plan: RestorePlan,
    settings: Mapping[str, str],
    replaced: list[str],
    site: Site,
    bin_directory: Path | None,
    taken: TakenFiles | None,
) -> RestoreRecord:
    """The record of a plan that was carried out.

    Args:
        plan: of the restore.
        settings: that were written.
        replaced: lines that they took the place of.
        site: where it happened.
        bin_directory: of the server's programs.
        taken: the configuration that was put beside it.
    """
    request, border = plan.request, plan.border
    return RestoreRecord(
        plan.record.cluster,
        plan.record.label,
        plan.record.system_identifier,
        plan.record.major,
        str(request.target),
        plan.history.timeline,
        _end(plan),
        request.isolated,
        str(_least(plan)),
        dict(settings),
        tuple(replaced),
        Expected.of(border.last) if border else None,
        Expected.of(border.following) if border else None,
        site.config,
        site.role,
        str(bin_directory) if bin_directory else None,
        segment_size=plan.record.segment_size,
        taken=taken,
    )


def _end(plan: RestorePlan) -> str:
    if plan.request.standby:
        return FOLLOWING
    if plan.request.target.kind == "end":
        return OPEN
    return {"pause": PAUSED, "promote": OPEN, "shutdown": SHUT_DOWN}[plan.request.target_action]


def _least(plan: RestorePlan) -> LSN:
    """At the end of WAL some record of the last segment; elsewhere the backup must be consistent."""
    if plan.request.target.kind == "end":
        return max(LSN(plan.segments[-1].start + 1), plan.record.stop_lsn)
    return plan.record.stop_lsn
