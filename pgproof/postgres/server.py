"""A local server: a data directory made, started on a Unix socket and ended by us (scratch, demo, tests)."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.errors import ProgramMissing, RecoveryFailed
from pgproof.postgres.own_socket import socket_dsn
from pgproof.postgres.programs import as_account, ending_with_us, environment, lines_of, run, warnings_of
from pgproof.postgres.rights import acting_as, make_directory

PORT = 5432  # of the socket's name only: nothing listens on the network unless settings say so


@dataclass
class LocalServer:
    """One server process.

    Args:
        bin_directory: of its programs.
        data: its data directory.
        socket: directory of its socket; short, as Unix sockets allow some 107 bytes.
        settings: given on the command line, so that nothing in the data directory overrides them.
        log: file that receives its log.
        owner: account to run as when we are root.
        port: in the name of its socket.
        detached: it stays when we end.
        variables: of its environment, besides ours.
        secrets: its environment has what opens the repository, for its restore_command.
    """

    bin_directory: Path
    data: Path
    socket: Path
    log: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    owner: pwd.struct_passwd | None = None
    port: int = PORT
    detached: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: bool = False
    _process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return socket_dsn(self.socket, self.port)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; it is not ready yet. It ends when the calling thread ends, unless it is detached."""
        if self.owner is None:
            self.socket.mkdir(parents=True, exist_ok=True)
        elif not self.socket.is_dir() or self.socket.stat().st_uid != self.owner.pw_uid:
            make_directory(self.socket, self.owner)
        settings = {
            "unix_socket_directories": str(self.socket),
            "port": str(self.port),
            "logging_collector": "off",
            "log_destination": "stderr",
            **self.settings,
        }
        command: list[str | Path] = [self.bin_directory / "postgres", "-D", self.data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self._log(), "ab") as log:
            self._process = subprocess.Popen(
                command if self.detached else ending_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(secrets=self.secrets)
                | {"LC_ALL": "C", **self.variables},  # English log lines
                cwd="/",
                start_new_session=True,
                **as_account(self.owner),  # type: ignore[call-overload]
            )

    def _log(self) -> int:
        """The log, as a file of the server's account: who starts it afterwards, such as pg_ctl, goes on with it."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            with acting_as(self.owner):
                return os.open(self.log, flags, 0o600)
        except PermissionError:
            if self.owner is None:
                raise
        # in a directory where the account cannot exchange it
        log = os.open(self.log, flags | os.O_NOFOLLOW, 0o600)
        os.fchown(log, self.owner.pw_uid, self.owner.pw_gid)
        return log

    def wait(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait until the server is as wanted.

        Args:
            ready: asked every 50 ms.
            timeout: seconds.
            what: for the error, such as "to accept connections".

        Raises:
            RecoveryFailed: the process ended or the time is over; with the log's last lines.
        """
        end = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise RecoveryFailed(
                    f'the server in "{self.data}" ended while we waited for it {what}', self.log_tail()
                )
            if time.monotonic() > end:
                raise RecoveryFailed(
                    f'the server in "{self.data}" took over {timeout:.0f} s {what}', self.log_tail()
                )
            time.sleep(0.05)

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until connections are accepted."""
        self.wait(self.accepts, timeout, "to accept connections")

    def accepts(self) -> bool:
        import psycopg

        try:
            psycopg.connect(f"{self.dsn} dbname=postgres connect_timeout=2", autocommit=True).close()
        except psycopg.OperationalError as error:
            # it answered, so it is up: whether the role may log in is another question
            return "does not exist" in str(error) or "authentication" in str(error)
        return True

    def stop(self, mode: str = "fast", timeout: float = 60) -> None:
        """End the process: ``smart``, ``fast`` or ``immediate`` as in pg_ctl; killed when the time is over."""
        process = self._process
        if process is None:
            return
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signals[mode])
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._process = None

    def ended_from_outside(self, log: str) -> str:
        """How the process, or one of its children, was ended by somebody else; empty when none was.

        A server that gives up by itself ends with 1, one that crashes with SIGSEGV, SIGBUS or SIGABRT.

        Args:
            log: what the server logged since its start; its ``LogChildExit`` names the signal.
        """
        code = self._process.poll() if self._process else None
        if code is not None and code in (
            0,
            -signal.SIGKILL,
            -signal.SIGTERM,
            -signal.SIGINT,
            -signal.SIGQUIT,
        ):
            return f"by signal {-code}" if code else "by a shutdown"
        if "was terminated by signal 9" in log:
            return "in one of its processes, by signal 9"
        return ""

    def end_children(self) -> None:
        """Kill what a killed server left: a busy backend notices late, and holds the shared memory until then.

        Only this server's own program that works in this data directory, never a shell that somebody opened there.
        """
        program = (self.bin_directory / "postgres").resolve()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                here = Path(os.readlink(entry / "cwd")) == self.data.resolve()
                if here and Path(os.readlink(entry / "exe")) == program:
                    os.kill(pid, signal.SIGKILL)

    def log_tail(self, lines: int = 8) -> str:
        """The last lines of the log that matter, for an error's detail."""
        with contextlib.suppress(OSError):
            text = lines_of(self.log.read_bytes().decode(errors="replace"))
            loud = [line for line in text if any(w in line for w in ("FATAL", "PANIC", "ERROR", "HINT"))]
            own = [line for line in loud if " client backend " not in line]  # as LOG_PREFIX writes it
            return "The server's log says: " + " | ".join((own or loud or text)[-lines:])
        return ""

    @contextlib.contextmanager
    def run(self, timeout: float = 60, mode: str = "fast") -> Iterator[LocalServer]:
        """Started and ready for the time of a block."""
        self.start()
        try:
            self.wait_ready(timeout)
            yield self
        finally:
            self.stop(mode)


def initialise(
    bin_directory: Path,
    data: Path,
    *,
    owner: pwd.struct_passwd | None = None,
    options: tuple[str, ...] = (),
    superuser: str = "postgres",
) -> tuple[str, ...]:
    """Make a new cluster with initdb; what it warned of.

    Raises:
        ProgramMissing: initdb failed; with what it said.
    """
    if owner is not None:
        data.mkdir(parents=True, exist_ok=True)
        os.lchown(data, owner.pw_uid, owner.pw_gid)
    command: list[str | Path] = [
        bin_directory / "initdb",
        "-D",
        data,
        "-U",
        superuser,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    done = run([*command, "--locale=C.UTF-8", *options], timeout=120, owner=owner)
    if done.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise ProgramMissing("initdb failed", (done.stderr or done.stdout).strip()[-600:])
    return tuple(text for text in warnings_of(done) if ": warning: " in text)
