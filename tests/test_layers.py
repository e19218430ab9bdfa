"""The rules that keep the code readable: layers, sizes, words, and what the engine may not do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From below to above: a layer imports its own and those before it.
LAYERS = ("pgproof", "tasks", "flows", "deployments")
# Within the engine, likewise; ``pgproof`` is the package itself, which has the version.
PACKAGES = (
    *("pgproof", "visible", "errors", "location", "quantity", "wording"),
    *("held", "private", "packages", "interpreter"),
    *("section", "schedule", "secret", "faults", "config"),
    *("timelines", "postgres", "repository", "wal", "backups", "restore", "retention", "gaps"),
    *("readiness", "validation", "fleet", "commands", "cli"),
)
FILE_STOP, FUNCTION_STOP = 400, 60
# What only a worker has installed, or what takes long to import: in functions of the engine, never on top.
HEAVY = {"pandas", "great_expectations"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
FORBIDDEN_WORDS = {
    "stanza": r"(?i)(?<!--)\bstanzas?\b",  # --stanza is an option of pgBackRest
    "xlog": r"\b[xX]logs?\b",  # XLOG is a resource manager, as pg_waldump names it
    "master": r"(?i)\bmasters?\b",
    "slave": r"(?i)\bslaves?\b",
    "snapshot of a base backup": r"(?i)\b(?:backup snapshots?|snapshot backups?)\b",
}
TERMINAL = re.compile(r"^pgproof/(?:cli\w*|console\w*|commands/\w+)\.py$")


@dataclass(frozen=True)
class Module:
    """A source file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path below the project."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def layer(self) -> str:
        return self.name.split("/")[0]

    @property
    def package(self) -> str:
        """Of the engine, to which it belongs."""
        below = self.name.split("/")[1]
        return "pgproof" if below == "__init__.py" else below.removesuffix(".py")

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def imports(self, *, on_top: bool = False) -> Iterator[tuple[str, int]]:
        """Every imported module and its line; ``on_top`` leaves out functions and what type checkers see."""
        for node in _outside_functions(self.tree) if on_top else ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module, node.lineno


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _outside_functions(child)


MODULES = [
    Module(path)
    for layer in LAYERS
    for path in sorted((ROOT / layer).rglob("*.py"))
    if "__pycache__" not in path.parts
]
ENGINE = [module for module in MODULES if module.layer == "pgproof"]


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_engine_is_found() -> None:
    names = {module.name for module in ENGINE}
    assert {"pgproof/errors.py", "pgproof/config.py", "pgproof/repository/store.py"} <= names


# ---- layers


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    if not (ROOT / layer).is_dir() or not any(module.layer == layer for module in MODULES):
        assert layer != "pgproof"
        pytest.skip(f"there is no {layer}/ yet")
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests", "benchmarks"}
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in MODULES
        if module.layer == layer
        for name, line in module.imports()
        if name.split(".")[0] in above
    ]
    assert wrong == []


def test_packages_of_the_engine_go_one_way() -> None:
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in ENGINE
        for name, line in module.imports()
        if name.split(".")[0] == "pgproof" and PACKAGES.index(_package(name)) > PACKAGES.index(module.package)
    ]
    assert wrong == []


def _package(name: str) -> str:
    """Of the engine, to which a module belongs: ``wal`` of ``pgproof.wal.push``."""
    return name.split(".")[1] if "." in name else "pgproof"


def test_the_engine_knows_no_prefect() -> None:
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in ENGINE
        for name, line in module.imports()
        if name.split(".")[0].startswith("prefect")
    ]
    assert wrong == []


def test_the_engine_imports_nothing_heavy_on_top() -> None:
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in ENGINE
        for name, line in module.imports(on_top=True)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


# ---- what the engine does not do


def test_only_a_terminal_module_prints() -> None:
    wrong = [
        f"{module.name}:{node.lineno}"
        for module in ENGINE
        if not TERMINAL.match(module.name)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("word", "place"),
    [
        (r"^ *(?:import|from) rich\b", "pgproof/commands/console.py"),
        (r"\bcreate_markdown_artifact\(", "tasks/artifacts.py"),
    ],
)
def test_what_others_wrote_is_escaped_in_one_place(word: str, place: str) -> None:
    found = [module.name for module in MODULES if re.search(word, module.text, re.MULTILINE)]
    assert found == [place]


def test_time_enters_the_engine_as_an_argument() -> None:
    """A ``clock=time.time`` is an argument; a call of it is not."""
    wrong = [
        f"{module.name}:{node.lineno} calls {ast.unparse(node.func)}"
        for module in ENGINE
        if not TERMINAL.match(module.name)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and re.search(
            r"(?:\b(?:datetime|date)\.(?:now|utcnow|today)|\btime\.time(?:_ns)?)$", ast.unparse(node.func)
        )
    ]
    assert wrong == []


# ---- sizes and names


def test_no_file_is_too_long() -> None:
    lengths = {module.name: len(module.text.splitlines()) for module in MODULES}
    assert {name: length for name, length in lengths.items() if length > FILE_STOP} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{module.name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in MODULES
        for node in functions(module)
    }
    assert {name: length for name, length in lengths.items() if length > FUNCTION_STOP} == {}


def test_no_module_is_a_drawer() -> None:
    wrong = [
        module.name
        for module in MODULES
        if FORBIDDEN_NAMES & set(re.split(r"[/_.]", module.name.removesuffix(".py").lower()))
    ]
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    assert [module.name for module in MODULES if not ast.get_docstring(module.tree)] == []


@pytest.mark.parametrize("word", FORBIDDEN_WORDS)
def test_words_that_are_never_used(word: str) -> None:
    pattern = re.compile(FORBIDDEN_WORDS[word])
    wrong = [
        f"{module.name}:{number}: {line.strip()}"
        for module in MODULES
        for number, line in enumerate(module.text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert wrong == []


# ---- the rules themselves


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pandas", ["pandas"]),
        ("from pandas import x", ["pandas"]),
        ("try:\n    import pandas\nexcept ImportError:\n    pass", ["pandas"]),
        ("class A:\n    import pandas", ["pandas"]),
        ("if True:\n    import pandas", ["pandas"]),
        ("def f():\n    import pandas", []),
        ("class A:\n    def f(self):\n        import pandas", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas", ["typing"]),
        ("from . import x", []),
    ],
)
def test_imports_on_top_are_found(tmp_path: Path, source: str, found: list[str]) -> None:
    (tmp_path / "module.py").write_text(source)
    assert [name for name, _ in Module(tmp_path / "module.py").imports(on_top=True)] == found


@pytest.mark.parametrize(
    ("word", "line", "found"),
    [
        ("xlog", "the xlog of", True),
        ("xlog", "XLogFileName of xlog_internal.h", False),
        ("xlog", "pg_xlog", False),
        ("xlog", "pg_waldump --rmgr=XLOG", False),
        ("xlog", "Xlogs", True),
        ("stanza", "a Stanza", True),
        ("stanza", 'option = "--stanza"', False),
        ("master", "the master's", True),
        ("master", "postmaster.pid", False),
        ("slave", "slaves", True),
    ],
)
def test_words_are_found_as_words(word: str, line: str, found: bool) -> None:
    assert bool(re.search(FORBIDDEN_WORDS[word], line)) is found
