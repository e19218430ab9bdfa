"""A plant is a Prefect server and its workers in processes of their own, to be stopped and killed one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from deployments.descent import descendants, kill_all
from deployments.up import environment, wait_for_server
from pgproof.backups.catalog import read_catalog
from tests.alerts.answers import answer
from tests.deployments.upped import MARK, until
from tests.servers.fleet import Fleet
from tests.servers.postgres import PROJECT, Source
from tests.servers.prefect_database import REGISTERED, place_database
from tests.servers.s3 import free_ports

SLOW = "backup.max_rate = 2048"  # kB/s: a new cluster takes more than ten seconds
ENDLESS = "backup.max_rate = 512"  # a minute: for one that is cancelled, however long that takes to reach it
ASLEEP = 'checks = [{ name = "sleep", database = "postgres", sql = "SELECT 1 FROM pg_sleep(120)", expect = "rows" }]'


@dataclass
class Plant:
    """One server and its workers.

    Args:
        source: the cluster ``main`` that is deployed; or a fleet.
        server_settings: of the server besides ours.
    """

    source: Source | Fleet
    server_settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_ports(1)[0])
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    server: subprocess.Popen[bytes] = field(init=False)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def settings(self) -> dict[str, str]:
        home = self.source.root / "home"
        home.mkdir(exist_ok=True)
        (self.source.root / "state" / "tmp").mkdir(parents=True, exist_ok=True)
        path = f"{PROJECT / 'tests/servers/without_expectations'}:{PROJECT}"
        quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": path, "HOME": str(home), **REGISTERED}
        quick["PREFECT_SERVER_UI_ENABLED"] = "false"  # nobody looks: its 17 MB are not copied
        return (
            os.environ
            | environment(self.source.root / "state", self.port)
            | quick
            | self.server_settings
            | {MARK: self.mark}
        )

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.api)

    def log(self, name: str) -> str:
        return (self.source.root / f"{name}.log").read_text()[-4000:]

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.source.root / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *words],
                cwd=PROJECT,
                env=self.settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_hears_interrupts,
            )

    def start_server(self) -> None:
        place_database(self.source.root / "state" / "prefect")
        self.server = self._start(
            "server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)
        )
        log = self.source.root / "server.log"
        wait_for_server(self.port, lambda: self.server.poll() is None, log)

    def kill_server(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(30)

    def command(self, *words: str) -> None:
        """A command of ours in this process, as with the server's address at a terminal; it succeeds."""
        with patch.dict(os.environ, self.settings), temporary_settings({PREFECT_API_URL: self.api}):
            code, _, error = answer(self.source.config_path, *words)
        assert code == 0, error

    def deploy(self) -> None:
        self.command("deploy")

    def end_workers(self) -> None:
        """Stop all of them."""
        while self.workers:
            self.end_worker(signal.SIGTERM)

    def start_worker(self, *words: str) -> subprocess.Popen[bytes]:
        made = self._start("worker", "worker", "start", "--pool", "pgproof", "--type", "process", *words)
        self.workers.append(made)
        return made

    def end_worker(self, number: signal.Signals) -> None:
        """Stop or kill the newest worker; one that waits for its runs is killed after a while, as systemd does."""
        made = self.workers.pop()
        made.send_signal(number)
        try:
            made.wait(20)
        except subprocess.TimeoutExpired:
            kill_all([made.pid, *descendants(made.pid)])
            made.wait(20)

    def order(self, flow: str, **parameters: Any) -> UUID:
        """Start a run of a deployment, as the UI does."""
        with self.client() as client:
            name = "pgproof" if flow in ("reap", "protect-fleet") else "main"
            deployment = client.read_deployment_by_name(f"{flow}/{name}")
            return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def read(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def wait_for(self, run: UUID, *names: str, timeout: float = 90) -> FlowRun:
        """The run, once its state has one of these names."""
        found = until(lambda: self.read(run), lambda seen: seen.state_name in names, timeout, 0.5)
        assert found.state_name in names, (
            f"{found.state} instead of {names}\n{self.logs(run)}\n{self.log('worker')}"
        )
        return found

    def cancel(self, run: UUID) -> None:
        """As the UI's button does."""
        with self.client() as client:
            client.set_flow_run_state(run, Cancelling())

    def logs(self, run: UUID) -> str:
        wanted = filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[run]))
        with self.client() as client:
            return "\n".join(log.message for log in client.read_logs(log_filter=wanted, limit=200))

    def attempts(self, run: UUID) -> dict[str, int]:
        """Task to how often it was tried."""
        wanted = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run]))
        with self.client() as client:
            return {task.name: task.run_count for task in client.read_task_runs(flow_run_filter=wanted)}

    def slots(self) -> dict[str, int]:
        """Concurrency limit to the slots of it that are taken."""
        with self.client() as client:
            found = client.request("POST", "/v2/concurrency_limits/filter", json={}).json()
        return {limit["name"]: limit["active_slots"] for limit in found}

    def processes(self, *words: str) -> dict[int, str]:
        """Every process that descends from server or workers and has all of these words on its command line."""
        mark, found = f"{MARK}={self.mark}".encode(), {}
        for process, command in commands():
            with contextlib.suppress(OSError):
                ours = mark in Path(f"/proc/{process}/environ").read_bytes()
                if ours and all(word in command for word in words):
                    found[process] = command
        return found

    def process_of(self, run: UUID) -> int | None:
        """The process of a run; None when it has none."""
        for process in self.processes("prefect"):
            with contextlib.suppress(OSError):
                if f"PREFECT__FLOW_RUN_ID={run}".encode() in Path(f"/proc/{process}/environ").read_bytes():
                    return process
        return None

    def flow_process(self, run: UUID) -> int:
        """The process of a run, which has one."""
        process = self.process_of(run)
        assert process is not None, f"no process has run {run}: {self.processes()}"
        return process

    def wait_suspended(self, run: UUID) -> FlowRun:
        """The run, once it waits for a person: its process stores the form after the state, and then ends."""
        found = self.wait_for(run, "Suspended")
        assert until(lambda: self.process_of(run), lambda process: process is None, 30) is None
        return found

    def postmasters(self) -> dict[int, str]:
        """The scratch servers that run; they have no variable of ours."""
        data = f"postgres -D {self.source.root}/scratch/"
        return {process: command for process, command in commands() if data in command}

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for made in (*self.workers, self.server):
            made.wait(30)


def _hears_interrupts() -> None:
    """Prefect's worker ends by a SIGINT, which a background job of a shell ignores: it would wait to be killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def commands() -> Iterator[tuple[int, str]]:
    """Every process of the machine with its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()


@contextlib.contextmanager
def running_plant(source: Source | Fleet, **server_settings: str) -> Iterator[Plant]:
    """A server with the deployments of ``main``, or of a fleet, and no worker yet."""
    plant = Plant(source, server_settings)
    plant.start_server()
    try:
        plant.deploy()
        yield plant
    finally:
        plant.kill_all()


def shows_sleep(shop: Source) -> bool:
    """Whether a scratch server sleeps; where its socket is, is in its lock file."""
    for lock in (shop.root / "scratch").glob("*/data/postmaster.pid"):
        try:
            socket = lock.read_text().split("\n")[4]
            with psycopg.connect(f"host={socket} user=postgres dbname=postgres") as connection:
                query = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                return bool(connection.execute(query).fetchall())
        except (OSError, IndexError, psycopg.OperationalError):
            continue
    return False


def streams(shop: Source) -> bool:
    """Whether the source is in the middle of a base backup."""
    return bool(shop.sql("SELECT 1 FROM pg_stat_progress_basebackup WHERE backup_streamed > 1000000"))


@contextlib.contextmanager
def held(shop: Source) -> Iterator[None]:
    """The base backup that streams stands still for the time of a block."""
    ((sender,),) = shop.sql("SELECT pid FROM pg_stat_progress_basebackup")
    os.kill(sender, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(sender, signal.SIGCONT)


def asleep(shop: Source, plant: Plant) -> tuple[UUID, int]:
    """A drill whose scratch server sleeps, and that server's process."""
    if not read_catalog(shop.archive).entries:
        shop.backup()
    shop.write_config(cluster=ASLEEP)
    run = plant.order("restore-validation")
    assert until(lambda: shows_sleep(shop), bool, 90), plant.logs(run)
    (postmaster,) = plant.postmasters()
    return run, postmaster
