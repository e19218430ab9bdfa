"""``pgproof up``: a local Prefect server with every deployment and schedule, and a worker, on one machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from deployments.deploy import POOL, deploy_cluster, project
from pgproof.commands.console import Session
from pgproof.errors import ConfigError, TransientError

_PR_SET_PDEATHSIG = 1


def environment(state: Path, port: int) -> dict[str, str]:
    """The environment of a local Prefect: its own home, loopback only, no telemetry."""
    return os.environ | {
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
    }


@contextlib.contextmanager
def running(words: list[str], settings: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Prefect process for the time of a block; it is asked to end, and ends with us in any case."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=settings,
            cwd=project(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_end_with_parent,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell job ignores it


def wait_for_server(url: str, alive: Callable[[], bool], log: Path, timeout: float = 120) -> None:
    """Wait until the API answers.

    Raises:
        TransientError: the process ended, or the time is over.
    """
    end = time.monotonic() + timeout
    while alive() and time.monotonic() < end:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{url}/health", timeout=2),
        ):
            return
        time.sleep(0.3)
    tail = log.read_text(errors="replace")[-600:] if log.exists() else ""
    raise TransientError("could not start the Prefect server", tail, f"see {log}")


def up(
    config: Annotated[str | None, typer.Option("--config")] = None,
    port: Annotated[int, typer.Option("--port", help="Of Prefect's UI and API, on 127.0.0.1.")] = 4200,
) -> int:
    """Run a local Prefect server with the deployments of every configured cluster, and a worker, until Ctrl-C."""
    session = Session.start(config, False)
    if not session.config.clusters:
        raise ConfigError("no cluster is configured", hint="pgproof init NAME --dsn ... --repository ...")
    state = session.config.state
    state.mkdir(parents=True, exist_ok=True)
    settings = environment(state, port)
    server_log, worker_log = state / "prefect-server.log", state / "prefect-worker.log"
    server_words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with running(server_words, settings, server_log) as server:
        wait_for_server(settings["PREFECT_API_URL"], lambda: server.poll() is None, server_log)
        for name in session.config.clusters:
            deploy_cluster(name, session.config.path, settings)
        with running(
            ["worker", "start", "--pool", POOL, "--type", "process"], settings, worker_log
        ) as worker:
            session.console.print(
                f"Prefect runs at http://127.0.0.1:{port} with the flows of: "
                f"{', '.join(session.config.clusters)}"
            )
            session.console.print(f"logs: {server_log} and {worker_log}; Ctrl-C ends both")
            with contextlib.suppress(KeyboardInterrupt):
                while server.poll() is None and worker.poll() is None:
                    time.sleep(0.5)
                raise TransientError(
                    "the Prefect server or the worker ended", hint=f"see {server_log}, {worker_log}"
                )
    return 0
