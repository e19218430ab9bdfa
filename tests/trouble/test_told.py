"""Who is told when nothing starts, and when something dies: from the real server to a real web and mail server."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.schedules import IntervalSchedule

from tests.alerts.receivers import Inbox, Message, mail_inbox, web_inbox
from tests.deployments.upped import until
from tests.drills.damage import answer
from tests.servers.postgres import Source
from tests.trouble.conftest import UNSCHEDULED
from tests.trouble.plant import Plant, asleep
from tests.trouble.test_death import QUICK, kill, reap_now, the_next_drill_is_clean

pytestmark = pytest.mark.timeout(600)  # a server, a worker and two drills
QUIET = 4  # seconds in which whatever is sent has arrived
LATE = "Flows of cluster main are due and do not start"
CRASHED = "Flow restore-validation of cluster main crashed"


@pytest.fixture(scope="module")
def inboxes(shop: Source, works: Plant) -> Iterator[tuple[Inbox, Inbox]]:
    """What the alerts of ``main`` send, by web and by mail."""
    shop.write_config(cluster=UNSCHEDULED)
    shop.backup()  # so that its lack is not told as well
    with web_inbox() as web, mail_inbox() as mail:
        works.command("alerts", "apply", "main", "--webhook", web.url, "--mailto", mail.url)
        yield web, mail


@pytest.fixture
def web(inboxes: tuple[Inbox, Inbox]) -> Iterator[Inbox]:
    """What came by web; at the end of a test the same has come by mail."""
    web, mail = inboxes
    before = len(web.messages)
    yield web
    assert len(web.messages) > before
    mail.wait(len(web.messages), 10)
    assert Counter(mail.messages) == Counter(web.messages)


def test_a_scheduled_run_that_no_worker_takes_is_told_once_and_so_is_its_start(
    unserved: Plant, web: Inbox
) -> None:
    with unserved.client() as client:
        deployment = client.read_deployment_by_name("base-backup/main").id
        once = IntervalSchedule(
            interval=timedelta(days=1), anchor_date=datetime.now(UTC) + timedelta(seconds=12)
        )
        (schedule,) = client.create_deployment_schedules(deployment, [(once, True)])
    other = unserved.order("wal-gap-check")  # late as well, and no message of its own
    unserved.wait_for(other, "Late")

    def scheduled() -> list[str]:
        with unserved.client() as client:
            found = client.request(
                "POST", "/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"}
            ).json()
        return [
            run["state_name"]
            for run in found
            if run["deployment_id"] == str(deployment) and run["auto_scheduled"]
        ]

    assert until(scheduled, lambda states: states[:1] == ["Late"], 60)[:1] == ["Late"]
    (alert,) = web.wait(1)
    time.sleep(QUIET)
    assert web.messages == [alert]
    assert alert.subject == LATE
    assert " is due and did not start: no worker takes it.\nIt means: nothing is backed up" in alert.body
    assert "\nRun: prefect worker start --pool pgproof --type process\n" in alert.body

    unserved.start_worker()
    unserved.wait_for(other, "Completed")
    assert until(scheduled, lambda states: states[:1] == ["Completed"], 90)[:1] == ["Completed"]
    time.sleep(QUIET)
    assert web.subjects == [LATE, "Over: flows of cluster main start again"]
    with unserved.client() as client:
        client.delete_deployment_schedule(deployment, schedule.id)


def deaths(web: Inbox, count: int = 0) -> list[Message]:
    """The messages on drills that died, once there are so many; what else is told of them is told besides."""

    def found() -> list[Message]:
        return [message for message in web.messages if message.subject == CRASHED]

    return until(found, lambda messages: len(messages) >= count, 40)


def test_the_process_of_a_drill_is_killed(shop: Source, plant: Plant, web: Inbox) -> None:
    """The worker tells of it."""
    run, postmaster = asleep(shop, plant)

    os.kill(plant.flow_process(run), signal.SIGKILL)

    assert until(lambda: Path(f"/proc/{postmaster}").exists(), lambda there: not there, 10) is False
    plant.wait_for(run, "Crashed", timeout=30)
    assert len(list((shop.root / "scratch").iterdir())) == 1
    (alert,) = deaths(web, 1)
    assert alert.body.startswith("restore validation of main crashed: its process or its worker is gone.\n")
    the_next_drill_is_clean(shop, plant)
    assert len(deaths(web)) == 1


@pytest.mark.usefixtures("without_expectations")
def test_the_worker_is_killed(shop: Source, plant: Plant, web: Inbox) -> None:
    """With its machine, as it were: nothing of its run is left to tell, and the reaper tells of it."""
    before = len(deaths(web))
    run, postmaster = asleep(shop, plant)
    process = plant.flow_process(run)

    plant.workers[-1].send_signal(signal.SIGSTOP)  # so that it does not see how its run ends
    kill(process)
    plant.end_worker(signal.SIGKILL)

    assert until(lambda: Path(f"/proc/{postmaster}").exists(), lambda there: not there, 10) is False
    time.sleep(QUICK.silence)
    assert len(deaths(web)) == before  # nobody knows yet
    # and perhaps a scheduled run that the worker had just taken
    assert "restore validation of main" in reap_now(plant).runs
    assert plant.read(run).state_name == "Crashed"
    (*_, alert) = deaths(web, before + 1)
    assert "\nreaped: it was Running and gave no sign of life since " in alert.body
    assert "\nRun: pgproof list main\n" in alert.body
    assert reap_now(plant).runs == ()
    time.sleep(QUIET)
    assert len(deaths(web)) == before + 1
    shop.write_config()
    assert answer(shop, "drill", "main")[0] == 0
    assert list((shop.root / "scratch").iterdir()) == []
    assert set(plant.slots().values()) == {0}  # the next drill of a worker can start
