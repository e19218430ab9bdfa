"""The host: the programs, the account and the room that a restore drill needs here."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

from pgproof.errors import ProgramMissing
from pgproof.held import SCRATCH, leftovers
from pgproof.postgres.programs import account, can_use, find_bin_directory, run
from pgproof.postgres.versions import INCREMENTAL_BACKUP
from pgproof.private import why_open
from pgproof.readiness.check import Answer, Question, Subject
from pgproof.wording import counted, size

_PROGRAMS = ("postgres", "pg_controldata", "pg_verifybackup", "pg_waldump")
_NAMED = 5  # leftovers
_ROOM = 1.2  # of the databases' size: WAL and the server's own files come on top


def _programs(subject: Subject) -> Answer:
    major = subject.facts.major
    try:
        directory = find_bin_directory(major, subject.cluster.bin_directory)
    except ProgramMissing as error:
        return Answer(False, f"{error.fact}: {error.detail.rstrip('.')}", error.hint)
    wanted = (*_PROGRAMS, "pg_combinebackup") if major >= INCREMENTAL_BACKUP else _PROGRAMS
    missing = [name for name in wanted if not os.access(directory / name, os.X_OK)]
    if missing:
        fact = f"{', '.join(missing)} of PostgreSQL {major} not in {directory}"
        return Answer(False, fact, f"apt-get install postgresql-{major}, or set bin_directory")
    owner = account(subject.cluster.drill.run_as)
    failure = _cannot_run(directory / "postgres", owner)
    if failure:
        who = owner.pw_name if owner else pwd.getpwuid(os.geteuid()).pw_name
        fact = f'account "{who}" cannot run {directory / "postgres"}: {failure}'
        return Answer(False, fact, "make every directory above it executable for the account")
    return Answer(True, f"those of PostgreSQL {major} are in {directory}")


def _cannot_run(program: Path, owner: pwd.struct_passwd | None) -> str:
    try:
        done = run([program, "--version"], timeout=10, owner=owner)
    except OSError as error:
        return str(error.strerror)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def _account(subject: Subject) -> Answer:
    owner = account(subject.cluster.drill.run_as)
    if owner is None:
        return Answer(True, f"scratch servers run as {_name_of(os.geteuid())}, as this command does")
    return Answer(True, f'scratch servers run as account "{owner.pw_name}", because this command is root')


def _name_of(uid: int) -> str:
    try:
        return f'account "{pwd.getpwuid(uid).pw_name}"'
    except KeyError:
        return f"user id {uid}"


def _scratch(subject: Subject) -> Answer:
    wanted = subject.cluster.scratch
    directory = next(path for path in (wanted, *wanted.parents) if path.exists())
    section = f"[clusters.{subject.cluster.name}.drill]"
    mend = f'set scratch_directory = "/other/place" in {section}'
    if not directory.is_dir():
        return Answer(False, f"{directory} is not a directory", mend)
    if reason := why_open(wanted):
        fact = f"{wanted} is not ours alone: {reason}, so that links put there could have any of our files replaced"
        return Answer(False, fact, mend)
    if failure := _cannot_use(directory, account(subject.cluster.drill.run_as)):
        return Answer(False, failure, mend)
    state = os.statvfs(directory)
    free, needed = state.f_bavail * state.f_frsize, int(subject.facts.database_size * _ROOM)
    fact = f"{wanted} has {size(free)} free; a restore of the databases takes {size(needed)}"
    return Answer(True, fact) if free >= needed else Answer(False, fact, mend)


def _cannot_use(directory: Path, owner: pwd.struct_passwd | None) -> str:
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{directory} is not writable"
    if owner is not None and not can_use(owner, "-x", str(directory)):
        return f'{directory} is not accessible for account "{owner.pw_name}"'
    return ""


def _leftovers(subject: Subject) -> Answer:
    """What killed commands left: where, and how big."""
    temporary = {Path(tempfile.gettempdir()), Path("/tmp"), subject.config.state / "tmp"}
    found = leftovers(subject.cluster.scratch, SCRATCH)
    found += [left for place in sorted(temporary) for left in leftovers(place)]
    if not found:
        return Answer(True, "nothing is left of commands that were killed")
    named = ", ".join(f"{left.path} ({size(left.size)})" for left in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    total = size(sum(left.size for left in found))
    fact = f"killed commands left {total} in {counted(len(found), 'place')}: {named}{more}"
    return Answer(False, fact, f"the next drill removes them: pgproof drill {subject.cluster.name}")


QUESTIONS = (
    Question("programs", "proof", _programs),
    Question("account", "proof", _account),
    Question("scratch directory", "proof", _scratch),
    Question("leftovers", "", _leftovers),
)
