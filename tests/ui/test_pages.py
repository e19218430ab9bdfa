"""What somebody sees and does in the Prefect UI: schedules, a run from its form, its artifact, an alert, blocks.

One server for all of it, so that what deploys more comes last.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgproof.repository.repository import create_repository
from tasks.offers import labels_in
from tests.deployments.upped import Up, until
from tests.servers.postgres import PGPROOF, PROJECT, run_pgproof
from tests.ui.conftest import expect, picture

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Deployment to the schedules that its page names
SCHEDULED = {
    "base-backup/main": ["base-backup"],
    "wal-gap-check/main": ["wal-gap-check"],
    "restore-validation/main": ["restore-validation", "oldest-proof"],
    "retention-pruning/main": ["retention-pruning"],
}


def opened(page: Page, path: str) -> None:
    page.goto(path)
    page.wait_for_load_state("networkidle")


@pytest.mark.timeout(600)
def test_deployments_are_listed_with_their_schedules(up: Up, page: Page, tmp_path: Path) -> None:
    deployments = up.deployments()
    opened(page, "/deployments?deployments.limit=50")
    for title in SCHEDULED:
        row = page.locator("tr", has_text=title.partition("/")[0]).first
        expect(row).to_contain_text("main")
        expect(row).to_contain_text("pgproof")
    expect(page.locator("tr", has_text="wal-gap-check")).to_contain_text("Every 5 minutes")
    picture(page, "ui-deployments", tmp_path)
    for title, slugs in SCHEDULED.items():
        opened(page, f"/deployments/deployment/{deployments[title]['id']}")
        for slug in slugs:
            expect(page.get_by_text(slug, exact=True).last).to_be_visible()


def left(page: Page) -> None:
    """Nothing is drawn while something else is waited for: a page of a run is never still."""
    page.goto("about:blank")


def run_from_the_form(up: Up, page: Page, flow: str, directory: Path) -> dict[str, str]:
    """Open a deployment, choose the custom run, submit its form as it is; the run when it has ended."""
    deployment = up.deployments()[f"{flow}/main"]["id"]
    opened(page, "/deployments?deployments.limit=50")
    page.locator("tr", has_text=flow).get_by_role("link", name="main", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.wait_for_load_state("networkidle")
    expect(page.get_by_text("as pgproof.toml names it")).to_be_visible()
    picture(page, f"ui-form-{flow}", directory)
    page.get_by_role("button", name="Submit").click()

    def runs(*states: str) -> list[dict[str, str]]:
        with up.client() as client:
            found = client.request("POST", "/flow_runs/filter", json={}).json()
        ours = [run for run in found if run["deployment_id"] == deployment and run["auto_scheduled"] is False]
        return [run for run in ours if not states or run["state_type"] in states]

    until(runs, bool, 60)
    left(page)
    found = until(lambda: runs("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), bool, 180)
    assert len(found) == 1, up.log("worker")
    return found[0]


@pytest.mark.timeout(600)
def test_a_drill_is_started_from_its_form_and_its_verdict_read(up: Up, page: Page, tmp_path: Path) -> None:
    run = run_from_the_form(up, page, "restore-validation", tmp_path)
    assert (run["name"], run["state_type"]) == ("restore validation of main", "COMPLETED"), up.log("worker")
    opened(page, f"/runs/flow-run/{run['id']}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    page.get_by_text("Artifacts", exact=True).first.click()
    expect(page.get_by_text("pgproof-main-proof").first).to_be_visible()
    opened(page, "/artifacts/key/pgproof-main-proof")
    expect(page.get_by_text("proven: 2 tables with 25,000 rows are equal").first).to_be_visible()
    wanted = {"artifacts": {"key": {"any_": ["pgproof-main-proof"]}}}
    with up.client() as client:
        (artifact,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    opened(page, f"/artifacts/artifact/{artifact['id']}")
    expect(page.get_by_role("heading", name="PROVEN: main")).to_be_visible()
    expect(page.get_by_role("cell", name="public.orders", exact=True)).to_be_visible()
    picture(page, "ui-proof", tmp_path)
    # what it was made of: there is no page for assets, their events are in the feed as any other
    opened(page, "/events")
    made = page.get_by_text("prefect.asset.materialization.succeeded").first
    made.evaluate("element => element.scrollIntoView({block: 'center'})")
    expect(page.get_by_text("proof ").first).to_be_visible()
    picture(page, "ui-lineage", tmp_path)


def offered_after_a_backup(up: Up) -> list[str]:
    """The backups that the form of a restore has to choose from, after one was taken by the worker."""
    with up.client() as client:
        ordered = client.create_flow_run_from_deployment(up.deployments()["base-backup/main"]["id"])
        state = until(lambda: client.read_flow_run(ordered.id).state, lambda s: bool(s and s.is_final()), 180)
        assert state is not None and state.is_completed(), up.log("worker")
        found = client.read_deployment_by_name("restore-cluster/main")
        return labels_in(found.parameter_openapi_schema)


@pytest.mark.timeout(600)
def test_the_form_of_a_restore_has_choices_of_targets_and_backups(up: Up, page: Page, tmp_path: Path) -> None:
    left(page)
    labels = offered_after_a_backup(up)
    deployment = up.deployments()["restore-cluster/main"]["id"]
    opened(page, f"/deployments/deployment/{deployment}/run")
    choice = page.get_by_text("One of these", exact=True)
    choice.click()
    choice.locator("xpath=following::button[contains(@class, 'p-select')][1]").press("ArrowDown")
    page.get_by_text(labels[0], exact=True).click()
    expect(page.get_by_role("button", name=labels[0], exact=True)).to_be_visible()
    for words in ("Destination", "as soon as the backup is consistent", "label of the one to restore"):
        expect(page.get_by_text(words).first).to_be_visible()
    expect(
        page.get_by_role("button", name="end", exact=True)
    ).to_be_visible()  # the drop-down, and its choice
    page.get_by_text("label of the one to restore").first.evaluate("e => e.scrollIntoView({block: 'center'})")
    picture(page, "ui-form-restore-cluster", tmp_path)


@pytest.mark.timeout(300)
def test_an_alert_is_an_automation_that_one_can_see(up: Up, page: Page, tmp_path: Path) -> None:
    left(page)
    applied = subprocess.run(
        [
            *PGPROOF,
            "--config",
            str(up.source.config_path),
            "alerts",
            "apply",
            "main",
            "--webhook",
            "http://127.0.0.1:9/",
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "PREFECT_API_URL": up.api,
            "HOME": str(up.source.root / "home"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert applied.returncode == 0, applied.stderr
    opened(page, "/automations")
    expect(page.get_by_text("pgproof main: WAL gap", exact=True)).to_be_visible()
    picture(page, "ui-alerts", tmp_path)
    page.get_by_text("pgproof main: WAL gap", exact=True).click()
    expect(page.get_by_text("Send a custom webhook notification").first).to_be_visible()


def fill(page: Page, label: str, text: str) -> None:
    named = page.locator("label", has_text=re.compile(f"^{label}"))
    page.locator(".p-label").filter(has=named).locator("textarea, input").first.fill(text)


def create(page: Page) -> None:
    page.get_by_role("button", name="Create", exact=True).click()
    page.wait_for_url(re.compile(".*/blocks/block/.*"))


@pytest.mark.timeout(600)
def test_a_cluster_is_filled_in_and_deployed(up: Up, page: Page, tmp_path: Path) -> None:
    """Kept in blocks, whose forms are saved as they open."""
    left(page)
    source, server = up.source, {"PREFECT_API_URL": up.api, "PREFECT_API_AUTH_STRING": up.login}
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
