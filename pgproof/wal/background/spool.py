"""The spool is where ``wal push`` and ``wal fetch`` meet the background process that does their work.

PostgreSQL starts the command anew for every file, so the command itself imports next to nothing: it looks here
for an answer, and starts the background process where there is none. One spool belongs to one data directory::

    <spool>/<data directory>/
      push.lock   held by the pusher; says which configuration it works with
      push.stop   asks the pusher to end: the configuration is another by now
      push.log    what it met
      pushed/     NAME: this very file is durable in the archive
      failed/     NAME: the attempt failed; exit code and message
      owed/       REPOSITORY/NAME: that copy of the archive still has to get it
      fetch.lock, fetch.stop, fetch.log
      wanted/     NAME: recovery waits for it
      fetched/    SYSTEM-CONFIGURATION/NAME: whole, checked files for recovery
      refused/    NAME: it could not be fetched; exit code and message

Nothing here needs to survive a crash: what is lost is pushed or fetched again, and pushing again is harmless.
An answer counts only for the very file and configuration that it was given for, so that one which was left by
another life of the data directory says nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from pgproof import __version__

START_LIMIT = 2  # starts of a background process that gave no answer; then the work is done in the foreground
_LONGEST_NAME = 180
_LOG_LIMIT = 1 << 20


def default_root() -> str:
    """The directory of all spools of this account: PGPROOF_SPOOL, else below the account's home."""
    return os.environ.get("PGPROOF_SPOOL") or os.path.expanduser("~/.local/state/pgproof/spool")


def identity_of(path: str) -> str:
    """What tells a file from an earlier one of its name.

    Raises:
        OSError: it is not there.
    """
    found = os.stat(path)
    return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


class Spool:
    """The spool of one data directory.

    Args:
        data: the data directory, absolute.
        config: path of pgproof.toml, absolute.
        cluster: when ``--cluster`` named one.
        root: directory of all spools.
        own_tablespaces: as ``--own-tablespaces`` said it; empty delivers WAL as it is archived.
        planned: as ``--planned`` said it.

    Raises:
        OSError: the configuration is not there.
    """

    def __init__(
        self,
        data: str,
        config: str,
        cluster: str | None = None,
        root: str | None = None,
        own_tablespaces: str = "",
        planned: str = "",
    ) -> None:
        self.data, self.config, self.cluster = data, config, cluster
        self.own_tablespaces, self.planned = own_tablespaces, planned
        name = data.strip("/").replace("/", "!")
        if len(name) > _LONGEST_NAME:
            from binascii import crc32

            name = f"{crc32(name.encode()):08x}{name[-_LONGEST_NAME:]}"
        self.directory = os.path.join(root or default_root(), name)
        self.settings = f"{__version__} {identity_of(config)} {cluster or ''} {config}"

    def path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)

    def make(self) -> None:
        """Make the directories.

        Raises:
            OSError: they cannot be made, or belong to another account.
        """
        for part in ("pushed", "failed", "owed", "wanted", "fetched", "refused"):
            os.makedirs(self.path(part), mode=0o700, exist_ok=True)
        if os.lstat(self.directory).st_uid != os.geteuid():
            raise OSError(errno.EPERM, "the spool belongs to another account", self.directory)
        above = os.stat(os.path.dirname(self.directory))
        if above.st_uid not in (0, os.geteuid()) or above.st_mode & 0o1002 == 0o002:
            raise OSError(errno.EPERM, "other accounts could exchange the spool", self.directory)

    # ---- answers

    def answer(self, kind: str, name: str) -> str | None:
        """What ``pushed``, ``failed`` or ``refused`` says of a file; None when nothing."""
        try:
            with open(self.path(kind, name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def say(self, kind: str, name: str, text: str) -> None:
        """Answer; a reader sees all of the text or none."""
        directory, last = os.path.split(self.path(kind, name))
        temporary = os.path.join(directory, f".{last}")
        with open(temporary, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(temporary, os.path.join(directory, last))

    def refuse(self, kind: str, name: str, code: int, message: str) -> None:
        """Answer with a failure (``failed``, ``refused``) that counts under these settings alone."""
        self.say(kind, name, f"{self.settings}\n{code}\n{message}")

    def failure(self, kind: str, name: str) -> tuple[int, str] | None:
        """Exit code and message of a failure that was met under these settings."""
        settings, _, rest = (self.answer(kind, name) or "").partition("\n")
        if settings != self.settings:
            return None
        code, _, message = rest.partition("\n")
        return int(code), message

    def ask(self, name: str) -> None:
        """Ask for a file, under these settings."""
        self.say("wanted", name, self.settings)

    def forget(self, kind: str, name: str) -> None:
        """Take an answer or a request back."""
        try:
            os.unlink(self.path(kind, name))
        except FileNotFoundError:
            pass

    def names(self, kind: str) -> list[str]:
        """Every file that ``kind`` has an entry of, in the order of their names."""
        return sorted(name for name in os.listdir(self.path(kind)) if not name.startswith("."))

    def owed(self, repository: str) -> list[str]:
        """The files that a repository still has to get."""
        try:
            return self.names(os.path.join("owed", repository))
        except FileNotFoundError:
            return []

    def pushed_text(self, wal_file: str) -> str:
        """The first line of an acknowledgement that counts for this file under this configuration."""
        return f"{identity_of(wal_file)} {self.settings}"

    def acknowledge(self, name: str, text: str, stored: dict[str, str]) -> None:
        """Acknowledge a file: its ``pushed_text``, and what was stored for it in which repository."""
        lines = [f"{repository} {sha256}\n" for repository, sha256 in stored.items()]
        self.say("pushed", name, f"{text}\n{''.join(lines)}")

    def acknowledged(self, name: str, text: str) -> bool:
        """Whether this very file was acknowledged under this configuration."""
        return (self.answer("pushed", name) or "").startswith(f"{text}\n")

    def stored(self, name: str, text: str) -> dict[str, str]:
        """What was stored for this very file, under whichever configuration."""
        first, _, rest = (self.answer("pushed", name) or "").partition("\n")
        if first.split(" ", 1)[0] != text.split(" ", 1)[0]:
            return {}
        return {words[0]: words[1] for line in rest.splitlines() if len(words := line.split(" ")) == 2}

    def for_recovery(self, system_identifier: int) -> str:
        """Let answers count for the recovery of this cluster alone; the directory of its checked files."""
        own = f"-{self.own_tablespaces.replace('/', '-')}" if self.own_tablespaces else ""
        self.settings += f" {system_identifier}{own} {self.planned}"
        return self.path("fetched", f"{system_identifier}-{identity_of(self.config)}{own}")

    # ---- the background process

    def try_lock(self, kind: str) -> int | None:
        """The lock of a background process as a file descriptor; None when another process holds it."""
        descriptor = os.open(self.path(f"{kind}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def holder(self, kind: str) -> tuple[str, float]:
        """The settings of the process that holds a lock, and its time limit in seconds; empty while it starts."""
        try:
            with open(self.path(f"{kind}.lock"), encoding="utf-8") as file:
                lines = file.read().split("\n")
            return lines[0], float(lines[1])
        except (OSError, ValueError, IndexError):
            return "", 0.0

    def describe_holder(self, descriptor: int, limit: float) -> None:
        """Write into a held lock what its holder works with."""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{self.settings}\n{limit}\n".encode(), 0)

    def ask_to_stop(self, kind: str) -> None:
        with open(self.path(f"{kind}.stop"), "w", encoding="utf-8"):
            pass

    def start(self, kind: str, lock: int) -> None:
        """Start the background process; it inherits the lock, and lives in a session of its own.

        Its output goes into a log: the server's log must not wait for it at a shutdown.

        Raises:
            OSError: it cannot be started; the lock is free again.
        """
        try:
            self._start(kind, lock)
        finally:
            os.close(lock)

    def _start(self, kind: str, lock: int) -> None:
        log = self.path(f"{kind}.log")
        try:
            if os.stat(log).st_size > _LOG_LIMIT:
                os.unlink(log)
        except FileNotFoundError:
            pass
        os.ftruncate(lock, 0)  # what an earlier holder wrote
        try:
            os.unlink(self.path(f"{kind}.stop"))
        except FileNotFoundError:
            pass
        os.set_inheritable(lock, True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        words = [sys.executable, "-P", "-m", "pgproof.commands.wal_background", kind, str(lock)]
        words += [
            self.directory,
            self.data,
            self.config,
            self.cluster or "",
            self.own_tablespaces,
            self.planned,
        ]
        os.posix_spawn(
            sys.executable,
            words,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
