"""Checking: what a drill looks at besides the comparison, each at the moment of the copy that it needs.

At the cut of a database the user's own SQL; after the last cut, in the copy opened for writing, structure and a dump;
then, in the stopped copy, its pages. The log is read as it was before the copy was opened.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import DestinationRefused, NotProven, ScratchKilled
from pgproof.postgres.connection import open_session
from pgproof.timelines.lsn import LSN
from pgproof.validation.checks import amcheck, dump, indexes, page_checksums
from pgproof.validation.checks.check import EVERY_DATABASE, CheckResult, not_possible
from pgproof.validation.checks.inspection import ENDED
from pgproof.validation.checks.own_checks import not_restored, run_check
from pgproof.validation.checks.server_log import check_log
from pgproof.validation.scratch import Scratch

_PROMOTION = 300  # seconds; it is one checkpoint of few buffers, and fsync is off
_OPEN = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN NULL
            WHEN pg_get_wal_replay_pause_state() = 'paused' THEN pg_wal_replay_resume()::text
            ELSE pg_promote(false)::text END
"""
_FILES = """
SELECT pg_relation_filepath(c.oid), c.oid::regclass::text FROM pg_class c
WHERE pg_relation_filepath(c.oid) IS NOT NULL
"""


class Checking:
    """The checks of one drill.

    Args:
        cluster: whose drill settings say which.
        scratch: of the copy.
        bin_directory: of its major version.
        owner: account of the server when we are root.
    """

    def __init__(
        self, cluster: ClusterConfig, scratch: Scratch, bin_directory: Path, owner: pwd.struct_passwd | None
    ) -> None:
        self._cluster, self._drill, self._scratch = cluster, cluster.drill, scratch
        self._bin, self._owner = bin_directory, owner
        self._visited: set[str] = set()
        self._doing = ""
        self._relations: dict[str, str] = {}
        self.results: list[CheckResult] = []
        self.seconds = 0.0

    @property
    def needs_shutdown(self) -> bool:
        """Whether the copy must be shut down properly when it has been compared."""
        return page_checksums.NAME in self._drill.checks

    def resume(self, databases: Iterable[str], results: Iterable[CheckResult]) -> None:
        """Take over what an earlier try found at a cut that the copy has left behind."""
        self._visited |= set(databases)
        self.results += results

    def at_cut(self, dsns: dict[str, str]) -> None:
        """Run the user's checks of the databases whose cut the copy is held at, in sessions for SQL of users."""
        started = time.monotonic()
        self._visited |= set(dsns)
        wanted = [check for check in self._cluster.checks if check.database in dsns]
        self.results += [run_check(check, dsns[check.database]) for check in wanted]
        self.seconds += time.monotonic() - started

    def after_cut(self, dsns: dict[str, str]) -> None:
        """Read the log, open the copy for writing, and check in there.

        Args:
            dsns: of each database to check, in the copy at its last cut; for what evaluates expressions of indexes.
        """
        started = time.monotonic()
        self.results += [not_restored(c) for c in self._cluster.checks if c.database not in self._visited]
        if "log" in self._drill.checks:
            self.results.append(check_log(self._scratch.log, again=self._scratch.killed_log.exists()))
        if self.needs_shutdown:
            self._name_files(dsns)
        wanted = [name for name in (amcheck.NAME, indexes.NAME, dump.NAME) if name in self._drill.checks]
        reason = _open_from_any(dsns.values()) if wanted else ""
        if reason:
            self.results += [not_possible(name, EVERY_DATABASE, reason) for name in wanted]
        else:
            self._in_databases(wanted, dsns)
        self.seconds += time.monotonic() - started

    def after_shutdown(self) -> None:
        """Check the pages of the stopped copy."""
        if not self.needs_shutdown:
            return
        timeout = self._drill.check_timeout
        found = page_checksums.check_pages(
            self._bin, self._scratch.data, self._owner, timeout, self._relations
        )
        self.results.append(found)
        self.seconds += found.seconds

    def killed(self, error: ScratchKilled) -> NotProven:
        """What is said where the server of a copy that was opened was killed: it cannot be checked again.

        Args:
            error: of the server.
        """
        ended = [
            f"{check.name} of {check.database}: {finding.partition(f': {ENDED}')[0]}"
            for check in self.results
            for finding in check.findings
            if ENDED in finding
        ]
        at = ", ".join(ended) or self._doing or "between two checks"
        return NotProven(
            f"{error.fact} while the copy was checked",
            f"That was at {at}. Whether damage there ended it or something else did is open.",
            "run the drill again; where it ends in the same place, run pg_amcheck on the source, too. "
            "dmesg shows whether memory was short",
        )

    def _in_databases(self, wanted: Sequence[str], dsns: dict[str, str]) -> None:
        for database, dsn in dsns.items():
            if amcheck.NAME in wanted:
                self._doing = f"{amcheck.NAME} of {database}"
                self.results.append(amcheck.check_relations(self._drill, dsn, database))
            if indexes.NAME in wanted:
                self._doing = f"{indexes.NAME} of {database}"
                found = indexes.check_indexes(self._drill, dsn, database)
                self.results += [found] if found.ok is not None or found.not_checked else []
            if dump.NAME in wanted:
                self._doing = f"{dump.NAME} of {database}"
                timeout = self._drill.check_timeout
                self.results.append(dump.check_dump(self._bin, dsn, database, self._owner, timeout))

    def _name_files(self, dsns: dict[str, str]) -> None:
        """Remember which file is whose: the stopped copy can no longer be asked."""
        for database, dsn in dsns.items():
            try:
                with open_session(dsn) as connection:
                    connection.execute("SELECT set_config('search_path', 'pg_catalog', false)")
                    rows = connection.execute(_FILES).fetchall()
            except psycopg.Error:  # what stands in its way is told by the checks in that database
                continue
            self._relations |= {path: f"{database}: {title}" for path, title in rows}


def is_opened(scratch: Scratch) -> bool:
    """Whether the copy was opened for writing: the server removes its recovery.signal when recovery ends."""
    return scratch.data.is_dir() and not (scratch.data / "recovery.signal").exists()


def refuse_opened(scratch: Scratch) -> None:
    """A copy that was opened has gone beyond its cut: comparing it again would accuse the backup.

    Raises:
        DestinationRefused: it was.
    """
    if is_opened(scratch):
        raise DestinationRefused(
            f'the copy in "{scratch.root}" was opened for writing already',
            "It is not at its cut any more.",
            "run the drill again",
        )


def refuse_beyond(scratch: Scratch, minimum: LSN, cut: LSN) -> None:
    """A copy never goes back: one that was recovered beyond a cut could not reach it (``CheckRecoveryConsistency``).

    Args:
        scratch: of the copy.
        minimum: where its recovery may end at the earliest.
        cut: the next one to compare at.

    Raises:
        DestinationRefused: it was, by a drill of another process that ended in the middle.
    """
    if minimum > cut:
        raise DestinationRefused(
            f'the copy in "{scratch.root}" was recovered beyond its cut already',
            f"It can end its recovery at {minimum} at the earliest; the cut is {cut}.",
            "run the drill again",
        )


def _open_from_any(dsns: Iterable[str]) -> str:
    """End the copy's recovery, from a database that this machine can open; why it could not be ended."""
    reason = ""
    for dsn in dsns:
        if not (reason := open_for_writing(dsn)):
            break
    return reason


def open_for_writing(dsn: str) -> str:
    """End the copy's recovery where it stands; why it could not be ended, empty when it was.

    It goes on as a new timeline that nothing archives. A server that is paused at its target sees a promotion only
    after up to a second (``recoveryPausesHere``); it hears at once that it may go on, and then opens by itself.
    """
    end = time.monotonic() + _PROMOTION
    try:
        with open_session(dsn) as connection:
            connection.execute(_OPEN)
            while connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
                if time.monotonic() > end:
                    return f"the copy was not open for writing after {_PROMOTION} s"
                time.sleep(0.02)
    except psycopg.Error as error:
        return f"the copy could not be opened for writing: {' '.join(str(error).split())}"
    return ""
