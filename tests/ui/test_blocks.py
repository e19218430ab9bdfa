"""A cluster kept in blocks, made in Prefect's UI: the forms are saved as they open, and deployed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pgproof.repository.repository import create_repository
from tests.deployments.upped import Up
from tests.servers.postgres import run_pgproof
from tests.ui.conftest import picture
from tests.ui.test_pages import opened


def fill(page: Page, label: str, text: str) -> None:
    named = page.locator("label", has_text=re.compile(f"^{label}"))
    page.locator(".p-label").filter(has=named).locator("textarea, input").first.fill(text)


def create(page: Page) -> None:
    page.get_by_role("button", name="Create", exact=True).click()
    page.wait_for_url(re.compile(".*/blocks/block/.*"))


@pytest.mark.timeout(600)
def test_a_cluster_is_filled_in_and_deployed(up: Up, page: Page, tmp_path: Path) -> None:
    source, server = up.source, {"PREFECT_API_URL": up.api}
    done = run_pgproof("deploy", "--blocks", environment=server)
    assert done.returncode == 0, done.stderr
    create_repository(source.config.repositories["main"])

    opened(page, "/blocks/catalog/pgproof-repository/create")
    fill(page, "Block Name", "store")
    fill(page, "URL", f"file://{source.repository_path}")
    create(page)
    opened(page, "/blocks/catalog/pgproof-cluster/create")
    fill(page, "Block Name", "shop")
    fill(page, "DSN", f"host={source.root}/s user=pgproof dbname=postgres")
    fill(page, "Settings", f'retention.daily = 14\nstate_directory = "{source.root}/state"')
    page.locator(".block-document-input .p-select-button__control").press("ArrowDown")
    page.get_by_text("store", exact=True).click()
    expect(page.locator(".block-document-input")).to_contain_text("store")
    picture(page, "ui-block-cluster", tmp_path)
    create(page)

    done = run_pgproof("deploy", "--blocks", environment=server)
    assert done.returncode == 0, done.stderr + done.stdout
    assert up.deployments()["base-backup/shop"]["parameters"]["config"] == "block:pgproof-cluster/shop"
