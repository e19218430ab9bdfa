"""Fixtures of the alerts: inboxes, a configuration, and an environment that each test leaves as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from tests.alerts.receivers import Inbox, mail_inbox, web_inbox

CONFIG = """
[repositories.main]
url = "file:///nowhere"
[clusters.shop]
dsn = "host=/nowhere"
[clusters.crm]
dsn = "host=/nowhere"
"""


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A command sets variables for the Prefect of its process, which here is that of other tests, too."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def web() -> Iterator[Inbox]:
    with web_inbox() as inbox:
        yield inbox


@pytest.fixture
def mail() -> Iterator[Inbox]:
    with mail_inbox() as inbox:
        yield inbox


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A pgproof.toml of two clusters."""
    path = tmp_path / "pgproof.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def client(prefect: Path) -> Iterator[SyncPrefectClient]:
    """Of a server without automations."""
    with get_client(sync_client=True) as made:
        yield made
        for automation in made.read_automations():
            made.delete_automation(automation.id)
