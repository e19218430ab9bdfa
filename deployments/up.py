"""``pgproof up``: a local Prefect server with every deployment and schedule, and a worker, on one machine."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from deployments.deploy import configured_clusters, deploy_clusters, targets_of
from deployments.descent import descendants, kill_all
from deployments.local_database import local_database
from deployments.prefect_deploy import project
from deployments.server import POOL, close_pool, end_orphans, ensure_pool
from flows.command import chosen_config
from flows.login import CLIENT, LOCK, SERVER, login_file, read_login
from pgproof.commands.console import Session
from pgproof.errors import ConfigError, PgproofError, TransientError
from pgproof.private import make_private

_PR_SET_PDEATHSIG = 1
_GRACE = 20  # seconds a process has to end


def environment(state: Path, port: int) -> dict[str, str]:
    """The environment of a local Prefect: its own home and temporary files, loopback only, no telemetry.

    Its server's answers carry no leave for pages of other sites, and its UI asks for the API where it was loaded from.
    """
    return {
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(
            state / "ui"
        ),  # in the package, it belongs to the first account
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",  # a run ordered in the UI waits for half of it
        # who holds a concurrency slot outlives the server, so that the slot of a run that died meanwhile comes free
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "TMPDIR": str(state / "tmp"),  # likewise: the worker's /tmp/runner_storage
    }


@contextlib.contextmanager
def running(words: list[str], log: Path, login: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Prefect process for the time of a block; it is asked to end, and ends with us in any case.

    It has a session of its own, so that Ctrl-C reaches us alone and the order of the end is ours.

    Args:
        words: of Prefect's command.
        log: gets its output.
        login: variable and value; in no argument, where every account of the machine could read it.
    """
    with open(log, "ab", opener=_for_us_alone) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            cwd=project(),
            env=os.environ | login,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            kill_all(
                descendants(process.pid)
            )  # a worker's runs have sessions of their own, and would outlive it
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left, as a rule
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell job ignores it


def check_port(port: int) -> None:
    """Refuse a port that something listens on: it could be another Prefect, which would get our deployments.

    Raises:
        ConfigError: it is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used", f"{error.strerror}.", f"pgproof up --port {port + 1}"
            ) from error


@contextlib.contextmanager
def alone(state: Path, port: int) -> Iterator[None]:
    """Nobody else runs this state directory's server for the time of a block: there is one database in it.

    Args:
        state: the directory.
        port: of the server; commands find it by the content of the lock.

    Raises:
        ConfigError: somebody does.
    """
    with open(state / LOCK, "a", opener=_for_us_alone) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f'pgproof up runs already in "{state}"', hint=f"fuser {lock.name}") from error
        lock.truncate(0)
        lock.write(f"http://127.0.0.1:{port}/api\n")
        lock.flush()
        yield


def wait_for_server(port: int, alive: Callable[[], bool], log: Path, timeout: float = 120) -> None:
    """Wait until the API answers.

    Raises:
        TransientError: the process ended, or the time is over.
    """
    end = time.monotonic() + timeout
    while alive() and time.monotonic() < end:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2),
        ):
            return
        time.sleep(0.3)
    raise ended("the Prefect server", log)


def ended(what: str, log: Path) -> TransientError:
    """The error for a process that should run, with the end of its log."""
    tail = log.read_text(errors="replace").split() if log.exists() else []
    return TransientError(f"could not keep {what} running", " ".join(tail)[-600:], f"see {log}")


def up(
    context: typer.Context,
    config: Annotated[str | None, typer.Option("--config")] = None,
    port: Annotated[int, typer.Option("--port", help="Of Prefect's UI and API, on 127.0.0.1.")] = 4200,
) -> int:
    """Run a local Prefect server with the deployments of every configured cluster, and a worker, until Ctrl-C."""
    session = Session.start(chosen_config(context, config), False)
    names = configured_clusters(session)
    state = session.config.state.absolute()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    login = read_login(state)
    with contextlib.suppress(KeyboardInterrupt), alone(state, port):
        check_port(port)
        make_private(state / "tmp")
        os.environ.update(environment(state, port))  # before Prefect is imported
        with local_database(state) as note, logged_in(login):
            serve(session, names, port, state, login, [note] if note else [])
    return 0


@contextlib.contextmanager
def logged_in(login: str) -> Iterator[None]:
    """This process uses the server with a login for the time of a block; its programs but Prefect's never see it."""
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    for name in (SERVER, CLIENT):  # of another server, perhaps
        os.environ.pop(name, None)
    with temporary_settings({PREFECT_API_AUTH_STRING: login}):
        yield


def set_alerts(session: Session, names: list[str]) -> None:
    """Apply the alerts where pgproof.toml says whom to tell; alerts that are wrong stop no backup, and are said."""
    if not session.config.alerts.notify:
        return
    from deployments.alerts.command import apply_alerts

    try:
        apply_alerts(names, session.config.alerts)
    except PgproofError as error:
        session.console.print(f"ALERTS ARE NOT SET: {error}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def serve(session: Session, names: list[str], port: int, state: Path, login: str, said: list[str]) -> None:
    """Server, deployments and worker, in this order, until one of them or we are ended.

    Raises:
        TransientError: server or worker ended by themselves.
    """
    server_log, worker_log = state / "prefect-server.log", state / "prefect-worker.log"
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(words, server_log, {SERVER: login}) as server:
        wait_for_server(port, lambda: server.poll() is None, server_log)
        close_pool(ensure_pool())
        targets, notes = targets_of([session.cluster(name) for name in names], str(session.config.path))
        notes += deploy_clusters(targets, session.config.path).notes
        set_alerts(session, names)
        end_orphans()  # of an earlier server that was killed: its worker died with it
        try:
            words = ["worker", "start", "--pool", POOL, "--type", "process"]
            with running(words, worker_log, {CLIENT: login}) as worker:
                session.console.print(
                    f"Prefect runs at http://127.0.0.1:{port} with the flows of: {', '.join(names)}"
                )
                session.console.print(f"log in with what this prints: cat {login_file(state)}")
                for note in [*said, *notes]:
                    session.console.print(f"note: {note}")
                session.console.print(f"logs: {server_log} and {worker_log}; Ctrl-C ends both")
                while server.poll() is None and worker.poll() is None:
                    time.sleep(0.5)
                if server.poll() is None:
                    raise ended("the worker", worker_log)
                raise ended("the Prefect server", server_log)
        finally:
            if server.poll() is None:
                with contextlib.suppress(PgproofError):
                    end_orphans()
