"""The question whether Prefect's server answers whoever asks; test_up.py has one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.open_api import api_of
from deployments.server import server_url
from pgproof.config import Config, parse
from tests.servers.s3 import free_ports


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tree = {"repositories": {"main": {"url": "memory://x"}}, "clusters": {"shop": {"dsn": "host=/nowhere"}}}
    return parse(tree | {"state_directory": str(tmp_path / "state")}, tmp_path / "pgproof.toml")


def test_one_that_wants_no_login(prefect: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server_url())
    (check,) = api_of(config.cluster("shop"), config)
    assert (check.name, check.state) == ("Prefect API", "advice")
    assert check.fact == (
        f"{server_url()} answers without a login: whoever reaches it, every account of the machine too, can run "
        "commands as the account of the workers, and read what is kept in blocks"
    )
    assert "PREFECT_SERVER_API_AUTH_STRING=admin:" in check.mend


def test_none_that_answers(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_ports(1)[0]}/api")
    assert api_of(config.cluster("shop"), config) == []
