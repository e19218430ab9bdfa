"""What importing a flow costs: a worker imports it for every run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.postgres import PROJECT

HEAVY = ("great_expectations", "pandas", "scipy", "prefect_aws", "boto3", "typer")
FLOWS = sorted(path.stem for path in (PROJECT / "flows").glob("*.py") if "@flow" in path.read_text())


def test_there_are_flows() -> None:
    assert FLOWS == [
        "base_backup",
        "protect",
        "protect_fleet",
        "reap",
        "restore_cluster",
        "restore_validation",
        "retention_pruning",
        "wal_gap_check",
        "wal_receive",
    ]


def test_importing_every_flow_imports_nothing_heavy() -> None:
    imports = "; ".join(f"import flows.{name}" for name in FLOWS)
    program = f"import sys; {imports}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, timeout=120
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("name", ["deployments.deploy", "deployments.up", "flows.command"])
def test_a_command_imports_prefect_only_when_it_runs(name: str) -> None:
    program = f"import sys, {name}; print('prefect' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, timeout=120
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("path", "decorator", "longest"),
    [
        *((path, "task", 15) for path in sorted((PROJECT / "tasks").glob("*.py"))),
        *((path, "flow", 40) for path in sorted((PROJECT / "flows").glob("*.py"))),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_tasks_are_thin_and_flows_are_readable(path: Path, decorator: str, longest: int) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and any(_name(d) == decorator for d in node.decorator_list):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1  # type: ignore[operator]
            assert lines <= longest, f"{node.name} has {lines} lines"


def _name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.id if isinstance(called, ast.Name) else ""
