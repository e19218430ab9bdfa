"""From what breaks to the message: WAL really missing, runs that really fail, nothing that runs at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow, tags
from prefect.client.orchestration import SyncPrefectClient

from deployments.alerts.template import PACKAGED
from flows.wal_gap_check import wal_gap_check
from tests.alerts.answers import done
from tests.alerts.receivers import Inbox
from tests.flows.runs import events_of, run, until
from tests.servers.postgres import Source, running_source

QUIET = 4  # seconds in which whatever is sent has arrived


@pytest.fixture(scope="module")
def shop(prefect: Path) -> Iterator[Source]:
    with running_source(17) as source:
        source.archive_now()
        source.backup()
        for _ in range(3):
            source.archive_now()
        yield source


def check(source: Source) -> None:
    """A gap check that mends nothing by itself."""
    run(wal_gap_check, "main", str(source.config_path), repair=False, backup_when_lost=False)


def test_a_gap_is_told_once_by_web_and_mail_and_so_is_its_end(
    shop: Source, client: SyncPrefectClient, web: Inbox, mail: Inbox
) -> None:
    done(shop.config_path, "alerts", "apply", "--webhook", web.url, "--mailto", mail.url)
    check(shop)
    time.sleep(QUIET)
    assert web.messages == mail.messages == []

    segment = shop.archive_now()
    shop.archive_now()
    stored = shop.stored(segment)
    aside = stored.rename(shop.root / "aside")
    for _ in range(3):  # a gap that stays is found every time
        check(shop)
    (alert,) = web.wait(1)
    time.sleep(QUIET)
    assert web.messages == mail.messages == [alert]
    assert alert.subject == "WAL of cluster main is not whole: 1 segment missing"
    lines = alert.body.splitlines()
    assert lines[:4] == [
        "WAL of cluster main is not whole: 1 segment missing.",
        "It means: 1 of 1 recovery window end before the archive does.",
        "Run: pgproof wal check main",
        "",
    ]
    assert lines[4].startswith("Cluster main, 20") and lines[4].endswith(" UTC, alert wal-gap.")

    aside.rename(stored)
    for _ in range(2):
        check(shop)
    web.wait(2)
    time.sleep(QUIET)
    assert web.subjects == mail.subjects == [alert.subject, "Over: WAL of cluster main is whole"]
    assert web.messages[1].body.startswith(
        "Over: WAL of cluster main is whole.\nIt means: 1 recovery window reaches the end of the archive.\n"
        "To look: pgproof wal check main\n"
    )

    aside = stored.rename(shop.root / "aside")  # and again: the alert is ready for the next time
    check(shop)
    assert len(web.wait(3)) == 3
    aside.rename(stored)


def test_an_archiver_that_fails_until_the_rpo_is_breached_is_told_once(
    shop: Source, client: SyncPrefectClient, web: Inbox
) -> None:
    """The lag comes first, and the breach of the target is no second message; nor is it when the lag ends."""
    done(shop.config_path, "alerts", "apply", "--webhook", web.url)
    check(shop)
    shop.write_config(cluster="targets.rpo = 2")
    shop.set(archive_command="false")
    try:
        shop.sql("CREATE TABLE late AS SELECT 1 AS a")
        began = time.monotonic()
        shop.sql("SELECT pg_switch_wal()")
        until(lambda: shop.sql("SELECT failed_count FROM pg_stat_archiver"), lambda rows: rows[0][0] > 0)
        check(shop)
        (alert,) = web.wait(1)
        time.sleep(max(0.0, began + 4 - time.monotonic()))
        check(shop)
        check(shop)
        assert "pgproof.rpo.breached" in [event["event"] for event in events_of("main")]
        time.sleep(QUIET)
        assert web.messages == [alert]
    finally:
        shop.set(archive_command=shop.archive_command)
        shop.archive_now()
        shop.write_config()
    assert alert.subject.startswith("WAL of cluster main does not reach the archive: 0000000100000000")
    assert "\nRun: pgproof doctor main\n" in alert.body
    check(shop)
    check(shop)
    web.wait(2)
    time.sleep(QUIET)
    assert web.subjects[1:] == ["Over: WAL of cluster main reaches the archive"]


def test_what_never_ran_is_missed_once(
    config: Path, client: SyncPrefectClient, web: Inbox, tmp_path: Path
) -> None:
    """Cluster crm was never backed up, checked or proven, and nothing runs: the server itself notices."""
    short = tmp_path / "short.yaml"
    text = PACKAGED.read_text()
    for window in ("30min", "26h", "8d"):
        text = text.replace(f"for: {window}", "for: 12s")
    short.write_text(text)
    done(config, "alerts", "apply", "crm", "--webhook", web.url, "--file", str(short))
    web.wait(3, 60)
    assert sorted(web.subjects) == [
        "No WAL gap check of cluster crm for 30 min",
        "No word of a backup of cluster crm for 26 h",
        "No word of a proof of cluster crm for 8 days",
    ]
    assert "alert no-check of cluster crm was set. Alert no-check." in "".join(m.body for m in web.messages)
    time.sleep(20)
    assert len(web.messages) == 3  # it does not nag


def test_a_storage_limit_and_an_old_backup(shop: Source, client: SyncPrefectClient, web: Inbox) -> None:
    done(shop.config_path, "alerts", "apply", "--webhook", web.url)
    shop.write_config(cluster='targets.backup_age = "1s"', store='size_limit = "1kB"')
    try:
        check(shop)
        check(shop)
        web.wait(2)
        time.sleep(QUIET)
        first, second = sorted(web.subjects)
        assert first.startswith("the newest backup of cluster main is ")
        assert second.startswith("the repository of cluster main fills up: ")
        assert len(second) == 79
        (body,) = [m.body for m in web.messages if m.subject == second]
        assert "are stored, the limit is 1.0 kB.\nIt means: when it is full no WAL is archived" in body
        assert "\nRun: pgproof expire main --dry-run\n" in body
    finally:
        shop.write_config()
    check(shop)
    # the whole repository may be as large as it likes, so that only the file system's share has a limit now
    web.wait(4)
    assert sorted(web.subjects[2:])[0].startswith("Over: cluster main has a recent backup, ")


@flow(name="retention-pruning", flow_run_name="retention pruning of shop")
def pruning(fails: bool) -> None:
    if fails:
        raise ValueError("the repository is away")


@flow(name="wal-something")
def every_minute() -> None:
    raise ValueError("an alert of its own tells")


def test_a_flow_that_fails_and_completes_again(config: Path, client: SyncPrefectClient, web: Inbox) -> None:
    done(config, "alerts", "apply", "shop", "--webhook", web.url)
    with tags("pgproof", "shop"):
        run(every_minute)
        run(pruning, False)
        run(pruning, True)
        run(pruning, True)  # each run of those that come once a day is told
        run(pruning, False)
        run(pruning, False)
    with tags("shop"):  # somebody else's
        run(pruning, True)
    web.wait(3)
    time.sleep(QUIET)
    failed = "Flow retention-pruning of cluster shop failed"
    assert sorted(web.subjects) == [
        failed,
        failed,
        "Over: flow retention-pruning of cluster shop completed",
    ]
    (body, _) = [m.body for m in web.messages if m.subject == failed]
    assert body.startswith(
        "retention pruning of shop failed.\n"
        "Flow run encountered an exception: ValueError: the repository is away\n"
        "It means: what this flow does for recovery was not done.\nRun: pgproof doctor shop\n"
    )
