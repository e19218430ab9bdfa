"""Prefect's own pages, opened in a real browser against a real server that `pgproof up` runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.deployments.upped import Up
from tests.servers.postgres import running_source

if TYPE_CHECKING:  # a second of each worker, and one of them has the browser
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = "PGPROOF_SCREENSHOTS"  # a directory; `make screenshots` names docs/images


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """A server with every deployment of one cluster that has a backup, and a worker."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with running_source(17) as source:
        source.sql(
            "CREATE TABLE customers AS SELECT g AS id, 'customer ' || g AS name FROM generate_series(1, 5000) g"
        )
        source.sql(
            "CREATE TABLE orders AS SELECT g AS id, g % 5000 AS customer FROM generate_series(1, 20000) g"
        )
        source.backup()
        with Up(source).running() as up:
            yield up


@pytest.fixture(scope="module")
def page(up: Up) -> Iterator[Page]:
    """A page of a browser that reaches nothing but the server: the site must not need the internet."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--disable-gpu",  # there is none: without it, the CPU does as if
            ],
        )
        page = browser.new_page(
            viewport={"width": 1280, "height": 900},
            base_url=f"http://127.0.0.1:{up.port}",
            reduced_motion="reduce",  # each picture is drawn by the CPU
        )
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        page.goto("/deployments")  # Prefect's own page asks for the login, and then shows what was wanted
        page.get_by_placeholder("admin:pass").fill(up.login)
        page.get_by_role("button", name="Login").click()
        page.wait_for_url("**/deployments")
        yield page
        browser.close()


def expect(shown: Any) -> Any:
    """Playwright's own."""
    from playwright import sync_api

    return sync_api.expect(shown)


def picture(page: Page, name: str, directory: Path) -> Path:
    """A screenshot, kept with the docs when they are being renewed."""
    path = Path(os.environ.get(SCREENSHOTS) or directory) / f"{name}.png"
    page.screenshot(path=path)
    return path
