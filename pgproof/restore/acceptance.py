"""An acceptance makes a restored cluster the server: out of recovery, out of isolation, and set as its source was.

Planned from what the running server and the machine say, then carried out in an order in which a crash is harmless.
The same command goes on afterwards; where the server is down it says to start it first.

1. End recovery.
2. Shut the server down.
3. Archive the history file of its new timeline, which reserves the number, and mark it for its archiver. Remove the
   note by which expire keeps what the restore needs, as recovery is over.
4. Take away the rules of whoever may connect, without which no line that starts a restored cluster starts it; take
   isolation and every recovery setting out of postgresql.auto.conf, and put back the source's own lines. Where it ends
   after this, ``pgproof start`` isolates it again.
5. Keep the configuration that the backup has from outside the source's data directory, if it was started with that.
6. Remove the restore record; from now on it is a cluster as any other.
7. Start it with its own configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import DestinationRefused, RecoveryFailed
from pgproof.postgres.control import MINIMA
from pgproof.postgres.faults import said_by
from pgproof.postgres.lock_file import RunningServer
from pgproof.postgres.programs import run
from pgproof.repository.repository import Archive
from pgproof.restore.configuration import ACCEPTED, keep_configuration
from pgproof.restore.isolation import isolation
from pgproof.restore.new_timeline import ask_archive, mark_history, reserve
from pgproof.restore.old_server import ask_old_server, refuse_others
from pgproof.restore.prepared import PreparedTransaction, find_prepared
from pgproof.restore.prerequisites import SETTINGS, Machine, missing
from pgproof.restore.record import DIRECTORY, SHUT_DOWN, TREE, RestoreRecord, forget
from pgproof.restore.restored import RestoredCluster, config_file
from pgproof.restore.running import end_note
from pgproof.restore.settings import setting_of, take_out
from pgproof.restore.standing import open_as_superuser
from pgproof.restore.start import stop
from pgproof.restore.unfinished import close
from pgproof.restore.whole_file import ask_for_room, writing

_SAID_OTHERWISE = ("listen_addresses", "max_logical_replication_workers", "cluster_name")
_START = 300  # seconds that a start may take: it ended with a shutdown
_PROMOTE = 600
# what needs a restart has an error there, and is as good
_FILES = """
SELECT name, setting, sourcefile LIKE '%/postgresql.auto.conf' FROM pg_file_settings
 WHERE name IS NOT NULL ORDER BY seqno
"""
_STATE = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
       current_setting('archive_mode')
"""
_DEFAULTS = "SELECT name, coalesce(boot_val, '') FROM pg_settings WHERE name = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Configured:
    """What a restored cluster will be once it is accepted.

    Args:
        settings: of isolation, each with the value that it will have.
        data_directory: that its configuration file names, if it does.
        listens: listen_addresses and port.
        subscriptions: that are enabled.
        timeline: that it writes on; None while it is still in recovery.
        archives: whether it archives already.
        prepared: transactions that somebody has to end; in recovery no server tells them.
        kept: settings that its files have smaller than its source had them: raised after the backup, or given on a
            command line. A prepared transaction may keep a server from starting with less.
        will: what its files make of every setting that was asked for.
    """

    settings: dict[str, str]
    data_directory: str | None
    listens: tuple[str, str]
    subscriptions: tuple[str, ...]
    timeline: int | None
    archives: bool
    prepared: tuple[PreparedTransaction, ...] = ()
    kept: tuple[str, ...] = ()
    will: Mapping[str, str] = field(default_factory=dict)

    @property
    def recovers(self) -> bool:
        return self.timeline is None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What came of an acceptance.

    Args:
        prepared: transactions that somebody has to end.
        warnings: what could not be done beside it, a sentence each.
    """

    prepared: tuple[PreparedTransaction, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceptancePlan:
    """What accepting a restored cluster will do.

    Args:
        restored: the cluster, which runs.
        config_file: that it was started with.
        configured: what it will be.
        cautions: to be read before.
        archive: opens that of the cluster; None when nothing says where it is.
    """

    restored: RestoredCluster
    config_file: Path
    configured: Configured
    cautions: tuple[str, ...]
    archive: Callable[[], Archive] | None = None

    def steps(self) -> list[str]:
        """The steps, as they are shown and then done."""
        data = self.restored.data
        steps = ["end recovery: it opens for writing, on a new timeline"] if self.configured.recovers else []
        steps.append("shut it down")
        steps.append("archive the history file of its timeline, which reserves the number")
        steps.append("take isolation and every recovery setting out of postgresql.auto.conf")
        steps += [
            f"keep {name} = {value}, which its source had and no file of it says"
            for name, value in self._kept()
        ]
        if self.keeps:
            steps.append(f"keep the source's configuration in {data / ACCEPTED}, included by {self.will_be}")
        steps.append(f"remove {data / DIRECTORY}")
        steps.append(f"start it with {self.will_be}")
        return steps

    @property
    def keeps(self) -> bool:
        """Whether it was started with the configuration that the backup has from outside the data directory."""
        return self.config_file.parent.name == DIRECTORY

    @property
    def will_be(self) -> Path:
        """The configuration that it will be started with."""
        return self.restored.data / "postgresql.conf" if self.keeps else self.config_file

    def begins(self) -> list[str]:
        """What will begin to run or to act."""
        return list(_begins(self.configured))

    def _kept(self) -> list[tuple[str, str]]:
        return [(name, self.restored.record.settings[name]) for name in self.configured.kept]


def _begins(configured: Configured) -> Iterator[str]:
    listens, port = configured.listens
    yield f"it listens on {listens!r}, port {port}" if listens else f"its socket has port {port}"
    for name, value in configured.settings.items():
        if name == "shared_preload_libraries":
            yield f"{name} = {value!r}: their workers start, and scheduled jobs run"
        elif name == "synchronous_standby_names":
            yield f"{name} = {value!r}: each commit waits for these standbys"
        elif name == "event_triggers":
            yield "event triggers fire"
        elif name not in _SAID_OTHERWISE:
            yield f"{name} = {value!r}"
    if configured.subscriptions:
        yield f"subscriptions connect to their publishers: {', '.join(configured.subscriptions)}"


def plan_acceptance(
    restored: RestoredCluster, cluster: ClusterConfig | None, archive: Callable[[], Archive] | None
) -> AcceptancePlan:
    """Decide everything, and refuse what cannot end well; nothing is changed.

    Args:
        restored: the cluster; its server runs.
        cluster: as pgproof.toml has it; None when there is no pgproof.toml.
        archive: opens that of the cluster; None when there is no pgproof.toml.

    Raises:
        OldServerRuns: a server of the same cluster writes here, or answers at the DSN.
        WalConflict: another server archives on the same timeline.
        DestinationRefused: it has no configuration, or its server does not run.
    """
    running = restored.running
    if running is None:
        raise DestinationRefused(
            f'no server runs in "{restored.data}"',
            "What is accepted was looked at.",
            f"pgproof start {restored.data}{' --pause' if restored.record.end == SHUT_DOWN else ''}",
        )
    named = config_file(restored)
    if named is None:
        raise DestinationRefused(
            f'"{restored.data}" has no postgresql.conf',
            "The source kept it elsewhere, and nobody named it.",
            f"pgproof stop {restored.data}; pgproof start {restored.data} --config-file FILE; "
            "then accept it, or put postgresql.conf and pg_hba.conf into the directory",
        )
    refuse_others(restored)
    cautions = [ask_old_server(restored, cluster)]
    with _session(restored, running, "could not be asked what it will be") as connection:
        configured = read_configured(connection, restored.record)
        machine = Machine.of(connection, restored.data, restored.owner)
    if configured.timeline is not None and not configured.archives:
        cautions.append(ask_archive(restored, archive, configured.timeline))
    keeps = named.parent.name == DIRECTORY
    taken = restored.record.taken if keeps else None
    hba = Path(f"{restored.data / DIRECTORY / TREE}{taken.hba}") if taken and taken.hba else None
    cautions += missing(configured.will, machine, hba)
    if not keeps and configured.data_directory and Path(configured.data_directory) != restored.data:
        cautions.append(
            f"{named} names data_directory = {configured.data_directory!r}: change it to {str(restored.data)!r} "
            "before anything else than pgproof starts this cluster"
        )
    return AcceptancePlan(restored, named, configured, tuple(filter(None, cautions)), archive)


def read_configured(connection: psycopg.Connection[Any], record: RestoreRecord) -> Configured:
    """What the configuration will make of a cluster that is isolated now.

    Args:
        connection: to its server, as a superuser.
        record: of the restore.
    """
    now = record.settings
    rows: list[Any] = connection.execute(_FILES).fetchall()
    files: dict[str, str] = {name: value for name, value, automatic in rows if not automatic}
    own = dict(filter(None, map(setting_of, record.replaced)))
    stays = {name: value for name, value, automatic in rows if automatic and now.get(name) != value}
    names = [*isolation(record.major), *MINIMA, *SETTINGS]
    defaults: dict[str, str] = dict(connection.execute(_DEFAULTS, (names,)).fetchall())
    will = {**dict.fromkeys(names, ""), **defaults, **files, **own, **stays}
    subscriptions = connection.execute(
        "SELECT subname FROM pg_subscription WHERE subenabled ORDER BY subname"
    ).fetchall()
    state: Any = connection.execute(_STATE).fetchone()
    return Configured(
        {name: will[name] for name in isolation(record.major) if name in now and will[name] != now[name]},
        files.get("data_directory"),
        (will["listen_addresses"], will["port"]),
        tuple(name for (name,) in subscriptions) if record.isolated else (),
        int(state[0], 16) if state[0] else None,
        state[1] != "off",
        find_prepared(connection),
        tuple(sorted(name for name in MINIMA if name in now and _less(will[name], now[name]))),
        will,
    )


def _less(configured: str, had: str) -> bool:
    """Whether a setting is smaller than it was; one that is written in another way than digits is somebody's wish."""
    return configured.isdecimal() and int(configured) < int(had)


def accept(plan: AcceptancePlan, *, start: bool = True) -> Accepted:
    """Carry a plan out.

    Args:
        plan: from plan_acceptance.
        start: start the server again; else whoever runs servers here does it.

    Raises:
        RecoveryFailed: it does not open, stop or start.
        WalConflict: another one was quicker to take its timeline; it stays isolated.
        NoRoom, DestinationRefused: its directory cannot be written in; where that is so before, nothing is changed.
    """
    restored, prepared = plan.restored, plan.configured.prepared
    with writing(restored.data):
        ask_for_room(restored.data)
        if plan.configured.recovers:
            prepared = _open(restored)
        stop(restored)
        warning = "" if plan.configured.archives else reserve(restored, plan.archive)
        end_note(plan.archive, restored.data)
        _change(plan)
        if start:
            _start(plan)
    return Accepted(prepared, (warning,) if warning else ())


def _change(plan: AcceptancePlan) -> None:
    """The rest of step 3, and 4 to 6: the files."""
    data, record = plan.restored.data, plan.restored.record
    mark_history(data, plan.restored.bin_directory, plan.restored.owner)
    close(plan.restored)
    take_out(data, record.settings, record.replaced, keep=plan.configured.kept)
    if plan.keeps and record.taken:
        keep_configuration(data, record.taken)
    forget(data)


@contextmanager
def _session(
    restored: RestoredCluster, running: RunningServer, failed: str
) -> Iterator[psycopg.Connection[Any]]:
    """A session of a superuser; where the server ends meanwhile, what its log says of that is the error."""
    before = _size(restored.log)
    try:
        with open_as_superuser(running.dsn, restored.roles, restored.record.major) as connection:
            yield connection
    except psycopg.Error as error:
        said = _last_lines(restored.log, before) or f"{said_by(error)}."
        again = f"pgproof start {restored.data}; then run the same command again"
        raise RecoveryFailed(
            f'the server in "{restored.data}" {failed}', said, f"{restored.log} has all of it; {again}"
        ) from error


def _open(restored: RestoredCluster) -> tuple[PreparedTransaction, ...]:
    running = restored.running
    assert running is not None
    try:
        with _session(restored, running, "did not open") as connection:
            row: Any = connection.execute("SELECT pg_promote(true, %s)", (_PROMOTE,)).fetchone()
            if row[0]:
                return find_prepared(connection)
    except RecoveryFailed:
        ask_for_room(restored.data)  # where its log lies on the same disk, that does not say it
        raise
    raise RecoveryFailed(
        f'the server in "{restored.data}" has not opened within {_PROMOTE} s',
        hint=f"{restored.log} says why; then run the same command again",
    )


def _start(plan: AcceptancePlan) -> None:
    """Start it with PostgreSQL's own program, as any cluster; what makes it this one is on the command line."""
    restored = plan.restored
    words = f"-c 'data_directory={_quoted(restored.data)}' -c 'config_file={_quoted(plan.will_be)}'"
    command: list[str | Path] = [restored.bin_directory / "pg_ctl", "-D", restored.data, "-l", restored.log]
    command += ["-o", words, "-w", "-t", str(_START), "start"]
    before = _size(restored.log)
    done = run(command, timeout=_START + 60, owner=restored.owner)
    if done.returncode != 0:
        raise RecoveryFailed(
            f'"{restored.data}" is accepted, and its server does not start',
            _last_lines(restored.log, before) or (done.stderr or done.stdout).strip()[-600:],
            f"{restored.log} says why; it is started as any other cluster now",
        )


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _quoted(path: Path) -> str:
    return str(path).replace("'", "'\\''")


def _last_lines(log: Path, since: int) -> str:
    """What this start has logged, as far as it matters; an earlier one says nothing about it."""
    try:
        text = log.read_bytes()[since:].decode(errors="replace")
    except OSError:
        return ""
    loud = re.findall(r"[^\n]*(?:FATAL|PANIC|HINT):[^\n]*", text)
    return f"Its log says: {' | '.join(loud[-4:])}" if loud else ""
