"""The server's log of a replay: what recovery complained of, without what every scratch server says.

The client sessions in it are the drill's own: what they fail with is a result of the comparison already, and counts
here only where it tells of damaged pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgproof.postgres.faults import shortage_in
from pgproof.postgres.programs import lines_of
from pgproof.validation.checks.check import EVERY_DATABASE, CheckResult, not_possible, shortened

LOG_PREFIX = "%m [%p] %b "
# how a scratch server that would open its copy, and may not, is ended: by its restore_command
REFUSAL = 255
REFUSED_TO_OPEN = f'.history" from archive: child process exited with exit code {REFUSAL}'
_LINE = re.compile(r"\S+ \S+ \S+ \[\d+\] (?P<backend>.+?) (?P<level>[A-Z]+):  (?P<text>.*)")
_OF_ITS_OWN = ("LOG", "WARNING", "ERROR", "FATAL", "PANIC")  # others go with the line before
_OURS = ("client backend", "parallel worker", "not initialized")
_DAMAGE = re.compile(
    r"page verification failed|invalid page in block|could not read block|missing chunk number"
)
_CRASH = re.compile(
    r"was terminated by signal (?!9\b|3\b)"
)  # these two are how a server is ended from outside
_STARTED = " LOG:  starting PostgreSQL "
_CONSISTENT = " LOG:  consistent recovery state reached at "
_WARNED = "startup: WARNING: "
_DROPS = re.compile(r" startup CONTEXT:  WAL redo at \S+ for (?:Database|Tablespace)/DROP\b")
# text of a complaint that is none, and the reason
HARMLESS = (
    ("the database system is ", "we ask for a connection before the server takes any"),
    ("due to administrator command", "the server is stopped between two cuts"),
    ("terminating background worker", "the server is stopped between two cuts"),
    (
        "unexpected directory entry ",
        "a tablespace of the source lies in place, as PostgreSQL allows for tests",
    ),
    (REFUSED_TO_OPEN, "a copy that cannot be held at a recovery target is ended rather than opened"),
)


def check_log(log: Path, until: int | None = None, *, again: bool = False) -> CheckResult:
    """Look for complaints of the server during the replay.

    Args:
        log: of the scratch server, written with LOG_PREFIX.
        until: byte where the replay and the comparison had ended; None is the end.
        again: whether a server had recovered the copy before the first one of this log.
    """
    try:
        with open(log, "rb") as file:
            text = file.read(-1 if until is None else until).decode(errors="replace")
    except OSError as error:
        return not_possible("log", EVERY_DATABASE, f"the server's log cannot be read: {error.strerror}")
    lines = lines_of(text)
    findings = dict.fromkeys(_complaints(lines, again))
    return CheckResult("log", EVERY_DATABASE, len(lines), 0.0, shortened(list(findings)))


def _complaints(lines: Sequence[str], again: bool) -> Iterator[str]:
    """Every complaint that matters, in order.

    A server that was stopped at a recovery target or a cut begins a little before it the next time. Until it is
    consistent it replays only what was replayed before (``CheckRecoveryConsistency``), and warns of what that replay
    has done already: a database, a tablespace or a file is gone. Of what is wrong there the first replay complained.

    A server that was not shut down properly may be consistent earlier than where the one before it had come to. What
    replay drops there is gone, too; that it was there at the beginning, the backup manifest says.
    """
    starts, consistent = int(again), False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if _STARTED in line:
            starts, consistent = starts + 1, False
        elif _CONSISTENT in line:
            consistent = True
        repeats = starts > 1 and (not consistent or bool(_DROPS.search(following)))
        if (found := complaint(line)) and not (repeats and found.startswith(_WARNED)):
            yield found


def complaint(line: str) -> str:
    """What a line of the log complains of, with who says it; empty when of nothing that matters."""
    match = _LINE.fullmatch(line)
    if match is None or match["level"] not in _OF_ITS_OWN:
        return ""
    backend, level, text = match["backend"], match["level"], match["text"]
    if level == "LOG":
        matters = backend == "postmaster" and bool(_CRASH.search(text))
    elif backend in _OURS:
        matters = level == "PANIC" or bool(_DAMAGE.search(text))
    else:
        matters = not any(part in text for part, _ in HARMLESS) and not shortage_in(text)
    return f"{backend}: {level}: {text}" if matters else ""


def last_of_recovery(text: str) -> str | None:
    """What recovery said last before its end; other processes write into the same log meanwhile.

    Args:
        text: of a log, written with LOG_PREFIX but for what restore_command says.

    Returns:
        None while recovery has not come to its end.
    """
    last = ""
    for line in lines_of(text):
        match = _LINE.fullmatch(line)
        if match is None:
            last = last if line.startswith("\t") else line.strip()
        elif match["backend"] == "startup" and match["level"] in _OF_ITS_OWN:
            if match["text"].startswith("redo done at "):
                return last
            last = match["text"].strip()
    return None
