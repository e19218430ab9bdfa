"""Every error is one tree, drawn and documented, and can travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

from pgproof import errors
from pgproof.errors import PermanentError, PgproofError, TransientError

DOCUMENT = Path(__file__).parent.parent / "docs" / "errors.md"
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, PgproofError) and found.__module__ == errors.__name__
]
# A class that has no code of its own has that of its base.
OWN_CODES = {found: found.__dict__["exit_code"] for found in CLASSES if "exit_code" in found.__dict__}
every_class = pytest.mark.parametrize("error_class", CLASSES, ids=lambda found: found.__name__)


def drawn() -> dict[str, str | None]:
    """The tree of the module's docstring: each class and the one above it."""
    assert errors.__doc__
    tree: dict[str, str | None] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z][A-Za-z]+)\b", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        tree[match[2]] = above[depth - 1] if depth else None
        above[depth:] = [match[2]]
    return tree


def documented() -> dict[str, tuple[int, str, str]]:
    """The tables of docs/errors.md: class, exit code, when, what to do."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+?) \| (.+?) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: (int(code), when, mend) for name, code, when, mend in rows}


def test_the_drawn_tree_is_the_tree() -> None:
    assert drawn() == {
        found.__name__: None if found is PgproofError else found.__base__.__name__ for found in CLASSES
    }


def test_every_error_is_documented() -> None:
    rows = documented()
    assert set(rows) == {found.__name__ for found in CLASSES} - {"PgproofError"}
    for found in CLASSES:
        if found is not PgproofError:
            code, when, mend = rows[found.__name__]
            assert code == found.exit_code, found
            assert when.endswith("."), found
            assert mend.endswith((".", "?")), found


@every_class
def test_every_error_is_transient_or_permanent(error_class: type[PgproofError]) -> None:
    if error_class is not PgproofError:
        assert issubclass(error_class, TransientError) != issubclass(error_class, PermanentError)
    assert error_class.__doc__


@every_class
@pytest.mark.parametrize(
    "arguments",
    [(), ("fact",), ("fact", "detail"), ("fact", "detail", "hint"), ("fact", "", "hint")],
    ids=len,
)
def test_every_error_survives_pickle(error_class: type[PgproofError], arguments: tuple[str, ...]) -> None:
    error = error_class(*arguments)
    pickled = (pickle.dumps(error, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))
    for other in (*map(pickle.loads, pickled), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is error_class
        assert (other.fact, other.detail, other.hint) == (error.fact, error.detail, error.hint)
        assert str(other) == str(error)
        assert other.exit_code == error.exit_code
        assert other.as_dict() == error.as_dict()


@every_class
def test_arguments_by_name_survive_pickle(error_class: type[PgproofError]) -> None:
    error = error_class("fact", hint="hint")
    assert str(pickle.loads(pickle.dumps(error))) == "fact\nHINT: hint"


def test_an_error_in_words() -> None:
    assert str(PgproofError("fact", "Detail.", "hint")) == "fact\nDETAIL: Detail.\nHINT: hint"
    assert str(PgproofError("fact", hint="hint")) == "fact\nHINT: hint"
    assert str(PgproofError("fact", "Detail.")) == "fact\nDETAIL: Detail."
    assert str(errors.WalGap()) == "WalGap"
    assert errors.NoRoom("fact", "Detail.", "hint").as_dict() == {
        "error": "NoRoom",
        "fact": "fact",
        "detail": "Detail.",
        "hint": "hint",
        "exit_code": 44,
    }


def test_exit_codes_are_one_to_a_class() -> None:
    assert len(set(OWN_CODES.values())) == len(OWN_CODES), OWN_CODES


def test_classes_that_share_a_code_share_it_with_their_base() -> None:
    shared = {found.__name__ for found in CLASSES if found not in OWN_CODES}
    assert shared == {
        "PermanentError",
        "ConfigError",
        "InvalidTarget",
        "WalGap",
        "NotProven",
        "RestoreDiffers",
        "ObjectDamaged",
    }


@every_class
def test_exit_codes_that_mean_something_else_are_not_used(error_class: type[PgproofError]) -> None:
    code = error_class.exit_code
    assert code != 15, "restore_command: 15 plus 128 is a shutdown that PostgreSQL keeps quiet about"
    assert 0 < code < 126, "126 and above: a shell's, a signal's, and what ends recovery"
    assert code + 128 < 256, "wal fetch adds 128"
    assert code != 70, "an error that nobody foresaw"
    assert code != errors.NOT_ARCHIVED, "wal fetch alone ends with it"


@pytest.mark.parametrize(
    ("name", "code"), [("Finding", 1), ("UsageError", 2), ("PgproofError", 10), ("TransientError", 75)]
)
def test_the_codes_that_the_command_promises(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code
