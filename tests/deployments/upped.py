"""``pgproof up`` in a process of its own, as somebody at a terminal runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from prefect.client.orchestration import SyncPrefectClient

from flows.login import login_file
from pgproof.postgres.programs import account, as_account
from tests.servers.place import give_to_server
from tests.servers.postgres import PGPROOF, PROJECT, Source
from tests.servers.s3 import free_ports

_T = TypeVar("_T")
MARK = "PGPROOF_TEST_MARK"  # a variable that every process of one `up` inherits


@dataclass
class Up:
    """One run of the command.

    Args:
        source: whose pgproof.toml it reads.
        port: of the server.
    """

    source: Source
    port: int = field(default_factory=lambda: free_ports(1)[0])
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[str] = field(init=False)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def output(self) -> Path:
        return self.source.root / f"up-{self.mark}.out"

    @property
    def login(self) -> str:
        return login_file(self.source.root / "state").read_text().strip()

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.api, auth_string=self.login)

    def start(self) -> None:
        home = self.source.root / "home"
        home.mkdir(exist_ok=True)
        give_to_server(home)
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [*PGPROOF, "--config", str(self.source.config_path), "up", "--port", str(self.port)],
                env={**os.environ, "PYTHONPATH": str(PROJECT), "HOME": str(home), MARK: self.mark},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
                **as_account(account(None)),  # type: ignore[call-overload]
            )

    @contextlib.contextmanager
    def running(self) -> Iterator[Up]:
        """Started and ready for the time of a block; whatever is left of it afterwards is killed."""
        self.start()
        try:
            self.wait_ready()
            yield self
        finally:
            self.kill_all()

    def wait_ready(self) -> None:
        until(lambda: "Ctrl-C" in self.said() or self.process.poll() is not None, bool, 120)
        assert self.process.poll() is None, self.said() + self.log("server") + self.log("worker")

    def said(self) -> str:
        return self.output.read_text()

    def log(self, name: str) -> str:
        path = self.source.root / "state" / f"prefect-{name}.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def end(self, number: signal.Signals) -> int:
        """Send a signal, and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def processes(self) -> dict[int, str]:
        """Every process that descends from the command, wherever it went: id to command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def kill_all(self) -> None:
        """For the end of a test that failed."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self.process.wait(30)

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Each deployment as the API shows it, by its flow and name."""
        with self.client() as client:
            flows = {
                flow["id"]: flow["name"] for flow in client.request("POST", "/flows/filter", json={}).json()
            }
            found = client.request("POST", "/deployments/filter", json={}).json()
        return {f"{flows[one['flow_id']]}/{one['name']}": one for one in found}

    def limits(self) -> list[dict[str, Any]]:
        with self.client() as client:
            found = client.request("POST", "/v2/concurrency_limits/filter", json={}).json()
        return sorted(found, key=lambda limit: str(limit["name"]))


def until(look: Callable[[], _T], wanted: Callable[[_T], bool], timeout: float, pause: float = 0.2) -> _T:
    """Look again until it is as wanted; the last look is given back in any case.

    Args:
        look: what to look at.
        wanted: whether it is.
        timeout: seconds.
        pause: seconds between two looks; each costs a server of Prefect some 15 ms.
    """
    end = time.monotonic() + timeout
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > end:
            return seen
        time.sleep(pause)
