"""``pgproof protect``: the flow from the command line."""

from __future__ import annotations

import json
from subprocess import CompletedProcess

import pytest
from prefect.settings import get_current_settings

from pgproof.backups.catalog import read_catalog
from tests.servers.postgres import Source


def protect(shop: Source, *words: str) -> CompletedProcess[str]:
    """Run the command against the server of the tests: one of its own would take ten seconds to start."""
    url = get_current_settings().api.url
    assert url is not None
    return shop.run("protect", "main", *words, environment={"PREFECT_API_URL": url})


@pytest.fixture(scope="module")
def done(shop: Source) -> CompletedProcess[str]:
    return protect(shop)


def test_a_report_for_a_person(shop: Source, done: CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    label = read_catalog(shop.archive).newest.label
    text = done.stdout
    assert f"PROVEN: cluster main, backup {label}" in text
    for line in (
        "backup     ",
        "WAL        ",
        "compared   2 tables with 1,200 rows are equal",
        "not checked: postgres: public.cache: unlogged: it comes back empty after recovery",
        "RPO        at most ",
        "RTO        ",
        "checks     Great Expectations: 7 of 7 expectations met",
    ):
        assert f"\n{line}" in text
    assert "Traceback" not in done.stderr


def test_an_error_ends_with_its_own_code(shop: Source) -> None:
    shop.write_config(cluster="system_identifier = 1")
    failed = protect(shop, "--json")
    assert failed.returncode == 24
    assert json.loads(failed.stdout)["error"] == "WrongSystem"
    assert failed.stderr.count('pgproof: server of cluster "main" belongs to another cluster') == 1
    assert "HINT: after pg_upgrade or initdb" in failed.stderr
    assert "Traceback" not in failed.stderr
