"""Who is told when nothing starts, and when something dies: from the real server to a real web server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.schedules import IntervalSchedule

from tests.alerts.receivers import Inbox, Message, web_inbox
from tests.deployments.upped import until
from tests.servers.postgres import Source, run_pgproof
from tests.trouble.plant import Plant, asleep, running_plant
from tests.trouble.test_death import QUICK, kill, reap_now

pytestmark = pytest.mark.timeout(600)  # a server, a worker and two drills
QUIET = 4  # seconds in which whatever is sent has arrived
LATE = "Flows of cluster main are due and do not start"
CRASHED = "Flow restore-validation of cluster main crashed"
UNSCHEDULED = "\n".join(
    f'schedules.{name} = "off"'
    for name in ("base_backup", "incremental", "wal_gap_check", "restore_validation", "retention_pruning")
)


@pytest.fixture(scope="module")
def works(shop: Source) -> Iterator[Plant]:
    """A server that soon schedules a run and soon finds it late, with nothing scheduled but what a test schedules."""
    shop.backup()  # lest its lack is told as well
    shop.write_config(cluster=UNSCHEDULED)
    soon = {
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "2",
    }
    with running_plant(shop, **soon) as plant:
        yield plant


@pytest.fixture(scope="module")
def web(works: Plant) -> Iterator[Inbox]:
    """What the alerts of ``main`` send."""
    with web_inbox() as inbox:
        path = str(works.source.config_path)
        words = ("alerts", "apply", "main", "--webhook", inbox.url)
        done = run_pgproof("--config", path, *words, environment=works.settings)
        assert done.returncode == 0, done.stderr
        yield inbox


@pytest.fixture(autouse=True)
def no_worker_stays(works: Plant) -> Iterator[None]:
    yield
    while works.workers:
        works.end_worker(signal.SIGTERM)


def test_a_scheduled_run_that_no_worker_takes_is_told_once_and_so_is_its_start(
    works: Plant, web: Inbox
) -> None:
    with works.client() as client:
        deployment = client.read_deployment_by_name("base-backup/main").id
        once = IntervalSchedule(
            interval=timedelta(days=1), anchor_date=datetime.now(UTC) + timedelta(seconds=12)
        )
        (schedule,) = client.create_deployment_schedules(deployment, [(once, True)])
    other = works.order("wal-gap-check")  # late as well, and no message of its own
    works.wait_for(other, "Late")

    def scheduled() -> list[str]:
        with works.client() as client:
            found = client.request(
                "POST", "/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"}
            ).json()
        return [run["state_name"] for run in found if run["deployment_id"] == str(deployment)]

    assert until(scheduled, lambda states: states[:1] == ["Late"], 60)[:1] == ["Late"]
    (alert,) = web.wait(1)
    time.sleep(QUIET)
    assert web.messages == [alert]
    assert alert.subject == LATE
    assert " is due and did not start: no worker takes it.\nIt means: nothing is backed up" in alert.body
    assert "\nRun: prefect worker start --pool pgproof --type process\n" in alert.body

    works.start_worker()
    works.wait_for(other, "Completed")
    assert until(scheduled, lambda states: states[:1] == ["Completed"], 90)[:1] == ["Completed"]
    time.sleep(QUIET)
    assert web.subjects == [LATE, "Over: flows of cluster main start again"]
    with works.client() as client:
        client.delete_deployment_schedule(deployment, schedule.id)


def drills(web: Inbox, count: int = 0) -> Inbox:
    """The messages on restore validations, once there are so many; that a run starts late may be told besides."""

    def found() -> list[Message]:
        return [message for message in web.messages if "restore-validation" in message.subject]

    return Inbox(web.url, until(found, lambda messages: len(messages) >= count, 40))


def test_what_dies_is_told_once_each(shop: Source, works: Plant, web: Inbox) -> None:
    """The worker tells of a process that died; the reaper of one whose worker died with it."""
    works.start_worker()
    run, _ = asleep(shop, works)
    os.kill(works.flow_process(run), signal.SIGKILL)
    works.wait_for(run, "Crashed", timeout=30)
    (alert,) = drills(web, 1).messages
    assert alert.subject == CRASHED
    assert alert.body.startswith("restore validation of main crashed: its process or its worker is gone.\n")

    run, _ = asleep(shop, works)
    process = works.flow_process(run)
    works.workers[-1].send_signal(signal.SIGSTOP)  # lest it sees how its run ends
    kill(process)
    works.end_worker(signal.SIGKILL)
    time.sleep(QUICK.silence)
    assert drills(web).subjects == [CRASHED]  # nobody knows yet
    assert "restore validation of main" in reap_now(works).runs
    drills(web, 2)
    assert reap_now(works).runs == ()
    time.sleep(QUIET)
    assert drills(web).subjects == [CRASHED, CRASHED]
    assert "\nreaped: it was Running and gave no sign of life since " in drills(web).messages[1].body
    assert "\nRun: pgproof list main\n" in drills(web).messages[1].body
