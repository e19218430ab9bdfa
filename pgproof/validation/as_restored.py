"""As restored: a backup restored and started exactly as a user is told to, up to the first cut of a fence.

The drill's own copy is recovered under settings of the drill; a user gets the source's, the restore_command that asks
the repository for each file, and ``pgproof start``. So a restore goes that way as well, by the same functions, into a
directory of its own, before the copy is made: recovery cannot go back, and the copy is recovered to points in time that
lie before the cut. What does not start, hangs or ends elsewhere than at the cut is a finding, and says nothing of the
data. What this machine lacks is named as not checked.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pgproof.backups.catalog import read_catalog
from pgproof.config import ClusterConfig, Config
from pgproof.errors import Finding, NoRoom, RecoveryFailed
from pgproof.postgres.faults import shortage_in
from pgproof.postgres.programs import account
from pgproof.postgres.rights import make_directory
from pgproof.postgres.server import LocalServer
from pgproof.repository.repository import Archive
from pgproof.restore.configuration import LOST, settings_in
from pgproof.restore.needs import closed_to
from pgproof.restore.plan import RestorePlan, RestoreRequest
from pgproof.restore.procedure import make_plan, run_plan
from pgproof.restore.record import DIRECTORY, TREE
from pgproof.restore.restored import RestoredCluster, config_file, open_restored
from pgproof.restore.running import end_note
from pgproof.restore.standing import differences
from pgproof.restore.start import launch, wait, why_early
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.lsn import LSN
from pgproof.validation.claim import make_claimed, remove_leftovers
from pgproof.validation.fences.fence import Fence
from pgproof.validation.memory import lowered
from pgproof.validation.order import require_before
from pgproof.validation.pace import Pace
from pgproof.validation.proof import Proof, read_proof
from pgproof.validation.replay import is_just_before
from pgproof.validation.scratch import Scratch
from pgproof.wal.background.spool import Spool
from pgproof.wording import counted

_STOP = 10  # seconds until it is killed: it is thrown away
_LINES = 6  # of a server's log, in a finding
_CONFIGURED = "starting PostgreSQL"  # the first that a server says once its configuration was read
_STAMP = re.compile(r"^(?:.*? )?(?=(?:LOG|FATAL|PANIC|ERROR|HINT|DETAIL|WARNING):  )")
_LOUD = re.compile(r"^(?:FATAL|PANIC|ERROR|HINT|DETAIL):  ")
# A value that the source takes, and this machine or its build of PostgreSQL does not
_NOT_HERE = re.compile(
    r'invalid value for parameter "(lc_\w+|timezone|log_timezone|io_method|max_stack_depth|debug_io_direct|'
    r'huge_page_size|dynamic_shared_memory_type|shared_memory_type|wal_sync_method|default_toast_compression)"|'
    r"(Bonjour|SSL|LZ4|Zstd) (?:is )?not supported by this build",
    re.IGNORECASE,
)
WHAT = "the restore as a user is told to make it"


@dataclass(frozen=True)
class AsRestored:
    """What came of a restore as a user is told to make it.

    Args:
        findings: what was not as planned, each with the setting's name where the server says it.
        not_checked: what could not be tried on this machine, a sentence each.
        phases: seconds of ``extract``, ``combine``, ``start`` and ``replay``; empty when it did not come to the cut.
        seconds: of all of it.
        skipped: why it was not tried at all; empty when it was.
        configuration: how many of the source's configuration files it had from outside the data directory.
        warnings: what the restore warned of when its files were in place.
    """

    findings: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    phases: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""
    configuration: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether it came to the cut, without a finding: its time is that of a recovery."""
        return bool(self.phases) and not self.findings

    def as_dict(self) -> dict[str, Any]:
        """As the proof keeps it."""
        return {
            "ok": False if self.findings else (True if self.phases else None),
            "findings": list(self.findings),
            "not_checked": list(self.not_checked),
            "skipped": self.skipped,
            "configuration_files": self.configuration,
            "seconds": round(self.seconds, 3),
        }


def restore_as_user(
    config: Config,
    cluster: ClusterConfig,
    archive: Archive,
    fence: Fence,
    label: str,
    clock: Callable[[], datetime],
    unreachable: str = "",
) -> AsRestored:
    """Restore a backup as a user does, start it, and compare where it stands with the plan.

    Everything is removed afterwards.

    Args:
        config: that the restored server reads, to fetch WAL.
        cluster: its drill settings.
        archive: to restore from.
        fence: with an exact cut.
        label: of the backup.
        clock: of this machine, aware.
        unreachable: why a restored server cannot read the configuration; empty when it can.

    Raises:
        TransientError: the repository did not answer.
        NotProven: the backup ends beyond the fence.
    """
    every = cluster.drill.as_restored
    if not fence.exact or not every:
        return AsRestored(skipped="drill.as_restored is 0" if not every else fence.why_not_exact)
    if since := _lately(archive, every):
        return AsRestored(skipped=f"one drill in {every} does, as drill.as_restored says: {since} did")
    if reason := unreachable or _unreachable(config, cluster):
        return AsRestored(not_checked=(reason,))
    return _Trial(config, cluster, archive, fence, label, clock).run()


def _lately(archive: Archive, every: int) -> str:
    """The identifier of one of our last proofs that went this way, when it is not due again; else empty."""
    looked = 0
    for identifier in reversed(archive.record_names(archive.layout.proofs)):
        if looked == every - 1:
            break
        with contextlib.suppress(Finding):
            proof: Proof = read_proof(archive, identifier)
            if not proof.origin:
                looked += 1
                if proof.tried_as_restored:
                    return identifier
    return ""


def _unreachable(config: Config, cluster: ClusterConfig) -> str:
    """Why a server that is restored here could not fetch WAL; empty when it could."""
    repository = config.repository_of(cluster)
    if urlsplit(repository.url).scheme == "memory":
        return "the repository is in the memory of one process, and restore_command is another"
    if not config.path.is_file():
        return f'"{config.path}" is no file that restore_command could read'
    return "; ".join(closed_to(config, cluster, account(cluster.drill.run_as)))


@dataclass
class _Trial:
    """One restore as a user makes it, with the arguments of ``restore_as_user``."""

    _config: Config
    _cluster: ClusterConfig
    _archive: Archive
    _fence: Fence
    _label: str
    _clock: Callable[[], datetime]
    _phases: dict[str, float] = field(default_factory=dict)
    _not_checked: list[str] = field(default_factory=list)

    @property
    def _scratch(self) -> Scratch:
        directory = self._cluster.scratch
        return Scratch(directory / f"{self._cluster.name}-{self._fence.identifier}")

    @property
    def _cut(self) -> LSN:
        return min(database.cut for database in self._fence.databases if database.cut is not None)

    def run(self) -> AsRestored:
        """All of it."""
        began = time.monotonic()
        remove_leftovers(self._scratch.root.parent)
        self._scratch.remove()
        files, warned = 0, tuple[str, ...]()
        try:
            plan = self._plan()
            owner = account(self._cluster.drill.run_as)
            make_claimed(self._scratch.root, owner)
            make_directory(self._scratch.root / "spool", owner)
            said = run_plan(
                self._config.path,
                self._cluster,
                self._archive,
                plan,
                self._clock,
                phases=self._phases,
            )
            found = plan.record.configuration
            files = len(found.files) if found else 0
            findings = [text for text in said if text.startswith(LOST)]
            warned = tuple(text for text in said if text not in findings)
            findings += self._start()
        except NoRoom as error:
            findings = []
            self._not_checked.append(str(error).replace("\n", " "))
        except (RecoveryFailed, Finding) as error:
            findings = [str(error).replace("\n", " ")]
        finally:
            end_note(lambda: self._archive, self._scratch.data)
            self._scratch.remove()
        came = "replay" in self._phases and not findings
        phases = {name: round(seconds, 3) for name, seconds in self._phases.items()} if came else {}
        seconds = time.monotonic() - began
        return AsRestored(tuple(findings), tuple(self._not_checked), phases, seconds, "", files, warned)

    def _plan(self) -> RestorePlan:
        """The plan of a user who wants the state just before the cut."""
        record = read_catalog(self._archive).entry(self._label).record
        require_before(record, self._fence)
        request = RestoreRequest(
            self._scratch.data,
            RecoveryTarget("lsn", str(self._cut), exclusive=True, timeline=self._fence.timeline),
            self._label,
            tablespaces={t.path: str(self._scratch.tablespaces / str(t.oid)) for t in record.tablespaces},
        )
        return make_plan(self._config, self._cluster, self._archive, request, self._clock())

    def _start(self) -> list[str]:
        """Start it as ``pgproof start`` does; what is not as planned."""
        restored = open_restored(self._scratch.data)
        fewer = lowered(restored)
        self._not_checked += fewer.said
        pace = Pace(restored.log)
        variables = {"PGPROOF_SPOOL": str(self._scratch.root / "spool")}
        server = launch(restored, detached=False, more=fewer.settings, variables=variables)
        try:
            found = wait(restored, server, self._cluster.drill.replay_timeout, look=pace.look)
            pace.add_to(self._phases)
            assert found is not None  # it pauses, and shuts nothing down
            findings = differences(restored.record, restored.data, found)
            findings += [] if findings else self._elsewhere(found.replayed)
            return [*findings, *filter(None, [why_early(restored)] if findings else [])]
        except RecoveryFailed as error:
            return self._explained(error, restored, server)
        finally:
            server.stop("immediate", _STOP)
            if server.socket != restored.data:
                shutil.rmtree(server.socket, ignore_errors=True)
            self._end_fetching()

    def _elsewhere(self, replayed: LSN | None) -> list[str]:
        if replayed is not None and is_just_before(replayed, self._cut):
            return []
        return [f"WAL was replayed up to LSN {replayed}; the target is just before {self._cut}"]

    def _explained(self, error: RecoveryFailed, restored: RestoredCluster, server: LocalServer) -> list[str]:
        """What went wrong, in the words of the server; nothing when it is the fault of this machine."""
        log = restored.log.read_text(errors="replace") if restored.log.exists() else ""
        if how := server.ended_from_outside(log):
            server.end_children()
            self._not_checked.append(f"the server was ended {how}")
            return []
        if reason := shortage_in(log) or _not_here(log):
            self._not_checked.append(reason)
            return []
        fact = error.fact.replace(f' in "{restored.data}"', "")
        said = in_short(log, restored.data)
        if server.running:  # it hangs, or cannot be asked, and does not say for which setting
            file = config_file(restored)
            names = (
                settings_in(file) - restored.record.settings.keys() - server.settings.keys() if file else ()
            )
            sets = f" Its configuration sets {', '.join(sorted(names))}." if names else ""
            said = f"{' '.join(error.detail.split())}{sets} Its log ends with: {said}"
        return [f"{fact}: {said}"]

    def _end_fetching(self) -> None:
        """End what fetches WAL ahead for a server that is gone, and wait for it: it writes into our directory."""
        root = str(self._scratch.root / "spool")
        spool = Spool(str(self._scratch.data), str(self._config.path.absolute()), root=root)
        if not Path(spool.directory).is_dir():
            return
        with contextlib.suppress(OSError):
            spool.ask_to_stop("fetch")
            end = time.monotonic() + 10
            while (lock := spool.try_lock("fetch")) is None and time.monotonic() < end:
                time.sleep(0.02)
            if lock is not None:
                os.close(lock)


def _not_here(log: str) -> str:
    """What this machine lacks that the source's configuration names, in a sentence; empty when nothing."""
    match = _NOT_HERE.search(log)
    if match is None:
        return ""
    line = next(line for line in log.split("\n") if match[0] in line)
    return f"this machine, or its PostgreSQL, does not know a value of the source: {_STAMP.sub('', line.strip())}"


def in_short(log: str, data: Path) -> str:
    """What the log of a server that did not come up says: the lines that matter, with the source's own paths.

    Args:
        log: of its only start.
        data: the restored directory.
    """
    lines = [_STAMP.sub("", line.strip()) for line in log.split("\n") if line.strip()]
    if _CONFIGURED in log:
        lines = [line for line in lines if _LOUD.match(line)] or lines
    text = " | ".join(lines[-_LINES:])
    return text.replace(f"{data}/{DIRECTORY}/{TREE}", "").replace(str(data), "the data directory")


def in_words(found: Mapping[str, Any]) -> str:
    """What came of a restore as a user is told to make it, in a line.

    Args:
        found: as the proof keeps it.
    """
    if found["skipped"]:
        return f"not restored as a user is told to: {found['skipped']}"
    if found["findings"]:
        return f"WARNING: restored as a user is told to, it is not what was proven: {'; '.join(found['findings'])}"
    if found["ok"] is None:
        return f"restored as a user is told to: not checked, {'; '.join(found['not_checked'])}"
    files = found["configuration_files"]
    brought = (
        f", with {counted(files, 'configuration file')} from outside the data directory" if files else ""
    )
    return f"restored as a user is told to: it started, and stood at the cut{brought}"
