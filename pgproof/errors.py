"""An error says a fact, a detail and a hint, and its class decides whether a retry may help.

::

    PgproofError
    ├── TransientError            "could not ...": trying again may help
    │   ├── ServerUnreachable
    │   ├── StoreUnavailable
    │   ├── LeaseHeld
    │   ├── WalNotArchived
    │   ├── SlotInUse
    │   ├── ScratchKilled
    │   └── ServerBusy
    └── PermanentError            "cannot ...": it never will, until somebody mends something
        ├── UsageError
        │   ├── ConfigError
        │   └── InvalidTarget
        ├── Finding               exit code 1: the check worked and found something wrong
        │   ├── WalGap
        │   ├── NotProven
        │   ├── RestoreDiffers
        │   └── ObjectDamaged
        ├── AuthenticationFailed
        ├── PrivilegeMissing
        ├── ServerNotReady
        ├── UnsupportedVersion
        ├── WrongSystem
        ├── RepositoryMissing
        ├── RepositoryReadOnly
        ├── RepositoryFormat
        ├── ObjectMissing
        ├── ObjectExists
        ├── WalConflict
        ├── SeveralFutures
        ├── BackupFailed
        ├── NoBackup
        ├── TargetOutsideWindow
        ├── DestinationRefused
        ├── NoRoom
        ├── ProgramMissing
        ├── RecoveryFailed
        ├── ToolFailed
        ├── ApprovalMissing
        └── OldServerRuns

The form follows PostgreSQL's own message style guide: a first line in lower case without a full stop,
then detail in sentences, then a hint, best a command to paste.
"""

from __future__ import annotations

from pgproof.visible import continued

NOT_ARCHIVED = 97  # exit code of wal fetch alone: no error has it, and no interpreter or shell ends with it
FETCH_OFFSET = 128  # on top of every error's exit code in wal fetch: over 125 PostgreSQL stops recovery


class PgproofError(Exception):
    """The root of every error that pgproof raises on purpose.

    Args:
        fact: what happened, one line, lower case, no full stop, names quoted.
        detail: the compared values and what follows, in sentences.
        hint: what to do, best a command to paste.
    """

    exit_code = 10

    def __init__(self, fact: str = "", detail: str = "", hint: str = "") -> None:
        super().__init__(fact, detail, hint)  # all of them, so that the error pickles
        self.fact = fact
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        lines = [continued(self.fact) or type(self).__name__]
        if self.detail:
            lines.append(f"DETAIL: {continued(self.detail)}")
        if self.hint:
            lines.append(f"HINT: {continued(self.hint)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | int]:
        """The error as it is printed by ``--json``."""
        return {
            "error": type(self).__name__,
            "fact": self.fact,
            "detail": self.detail,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class TransientError(PgproofError):
    """Something outside was not ready; trying again may help."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class PermanentError(PgproofError):
    """Trying again cannot help until somebody mends something."""


class ServerUnreachable(TransientError):
    """No PostgreSQL server answers at the address, or the connection broke."""

    exit_code = 76


class StoreUnavailable(TransientError):
    """The repository's store did not answer, or answered with a passing fault."""

    exit_code = 77


class LeaseHeld(TransientError):
    """Another writer works on this cluster's repository."""

    exit_code = 78


class WalNotArchived(TransientError):
    """A WAL segment did not reach the archive within the time limit."""

    exit_code = 79


class SlotInUse(TransientError):
    """Another connection streams from the replication slot."""

    exit_code = 80


class ScratchKilled(TransientError):
    """A scratch server was ended from outside, such as by the kernel when memory is short."""

    exit_code = 81


class ServerBusy(TransientError):
    """The server answers, and lacks connections, memory or disk now, or somebody cancelled what was asked."""

    exit_code = 82


class UsageError(PermanentError):
    """What was asked makes no sense as it was asked."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration is missing, malformed or contradicts itself."""


class InvalidTarget(UsageError):
    """A recovery target that cannot be read, such as a time without a zone."""


class Finding(PermanentError):
    """The check worked, and found something that stands in the way of recovery."""

    exit_code = 1


class WalGap(Finding):
    """WAL that a recovery needs is not in the archive."""


class NotProven(Finding):
    """A restore drill ended without a proof: not equal, or not exact."""


class RestoreDiffers(Finding):
    """A backup is proven, and a restore as a user is told to make it does not give what the drill proved."""


class ObjectDamaged(Finding):
    """Stored bytes are not the bytes that were stored."""


class AuthenticationFailed(PermanentError):
    """The server refused the role or its password."""

    exit_code = 20


class PrivilegeMissing(PermanentError):
    """The role lacks a privilege that the work needs."""

    exit_code = 21


class ServerNotReady(PermanentError):
    """A setting of the server stands in the way, such as ``wal_level = minimal``; or what it stores is damaged."""

    exit_code = 22


class UnsupportedVersion(PermanentError):
    """The server is older than pgproof supports."""

    exit_code = 23


class WrongSystem(PermanentError):
    """What is offered belongs to another system identifier (invariant 6)."""

    exit_code = 24


class RepositoryMissing(PermanentError):
    """There is no repository at the URL."""

    exit_code = 30


class RepositoryReadOnly(PermanentError):
    """The repository refuses a write, or access altogether."""

    exit_code = 31


class RepositoryFormat(PermanentError):
    """The repository was written in a format that this version does not know."""

    exit_code = 32


class ObjectMissing(PermanentError):
    """No object with this key is in the repository."""

    exit_code = 33


class ObjectExists(PermanentError):
    """An object with this key is in the repository already."""

    exit_code = 34


class WalConflict(PermanentError):
    """A segment with this name and other content is archived already (invariant 3)."""

    exit_code = 35


class SeveralFutures(PermanentError):
    """The archive holds several futures, and which one is wanted nobody but the operator knows."""

    exit_code = 36


class BackupFailed(PermanentError):
    """A base backup ended without a backup record."""

    exit_code = 40


class NoBackup(PermanentError):
    """There is no backup that serves the purpose."""

    exit_code = 41


class TargetOutsideWindow(PermanentError):
    """No recovery window holds the recovery target."""

    exit_code = 42


class DestinationRefused(PermanentError):
    """The directory to restore into is not empty, or cannot be used."""

    exit_code = 43


class NoRoom(PermanentError):
    """There is too little room on a file system."""

    exit_code = 44


class ProgramMissing(PermanentError):
    """A program of PostgreSQL is needed here and is not installed."""

    exit_code = 45


class RecoveryFailed(PermanentError):
    """A restored server did not reach its recovery target."""

    exit_code = 46


class ToolFailed(PermanentError):
    """Another tool's program, such as pgBackRest or Barman, failed at what it was asked."""

    exit_code = 47


class ApprovalMissing(PermanentError):
    """What was asked needs somebody's agreement: an expire plan above its limit, or an acceptance."""

    exit_code = 48


class OldServerRuns(PermanentError):
    """A restored cluster is to become the server while the old one still writes."""

    exit_code = 49
