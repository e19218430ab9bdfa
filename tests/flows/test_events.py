"""Events: their payloads, that they reach the server once, and that an automation answers them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.automations import Automation, EventTrigger, Posture
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification

from pgproof.errors import StoreUnavailable
from pgproof.gaps.check import WalCheck
from pgproof.gaps.gap import GapReport
from tasks.events import CHECKED, CURRENT, GAP, LAG, REPAIRED, Event, emit, resource_of, wal_events
from tasks.events import WHOLE as WHOLE_ARCHIVE
from tasks.retries import RETRY, settings
from tests.flows.runs import events_of, look, run, until
from tests.windows.views import broken, gap, segment, window

RPO = 300
COMMIT = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
WHOLE = WalCheck(
    GapReport(60, 60 << 20, segment(0), segment(59), (), (window(5), window(20)), 1, 16),
    newest_commit=COMMIT,
    rpo_seconds=3.8,
    rpo_target=RPO,
)
BROKEN = replace(
    WHOLE,
    report=replace(
        WHOLE.report,
        gaps=(gap(30, 32),),
        damaged=((segment(50).name, "CRC differs"),),
        windows=(broken(5, 30), window(55)),
    ),
)


def named(events: list[Event]) -> dict[str, dict[str, Any]]:
    return {event.name: event.payload for event in events}


class TestPayloads:
    def test_a_whole_archive(self) -> None:
        position = {
            "newest": segment(59).name,
            "newest_commit": "2026-11-23T13:00:00+00:00",
            "rpo_seconds": 3.8,
            "lag_bytes": 16,
            "in_flight": 1,
            "source_error": "",
        }
        assert named(wal_events("main", WHOLE)) == {
            WHOLE_ARCHIVE: {
                "what": "WAL of cluster main is whole",
                "meaning": "2 recovery windows reach the end of the archive",
                "command": "pgproof wal check main",
                "segments": 60,
                "windows": 2,
            },
            CURRENT: {
                "what": "WAL of cluster main reaches the archive",
                "meaning": "if the source died now, at most 3.8 s would be lost; the target is 5 min",
                "command": "pgproof wal check main",
                "target_seconds": 300,
                **position,
            },
            CHECKED: {
                "what": "WAL of cluster main was checked and is whole",
                "meaning": "2 recovery windows, 16 B behind the source",
                "command": "pgproof wal check main",
                "ok": True,
                "segments": 60,
                "windows": 2,
                **position,
            },
        }

    def test_what_nobody_knows_is_not_fine(self) -> None:
        away = replace(WHOLE, source_error="it is away", doubts=("it is away",), rpo_seconds=None)
        found = named(wal_events("main", away))
        assert list(found) == [WHOLE_ARCHIVE, LAG, CHECKED]
        assert found[LAG]["what"] == "nobody knows how far the archive of cluster main is behind: it is away"

    def test_a_gap_names_segments_and_windows(self) -> None:
        found = named(wal_events("main", BROKEN))
        assert list(found) == [GAP, CURRENT, CHECKED]
        assert found[GAP] == {
            "what": "WAL of cluster main is not whole: 3 segments missing and 1 segment damaged",
            "meaning": "1 of 2 recovery windows end before the archive does",
            "command": "pgproof wal check main",
            "missing": 3,
            "gaps": [
                {"first": segment(30).name, "last": segment(32).name, "segments": 3, "from_lsn": "0/1E00000"}
            ],
            "damaged": [{"segment": segment(50).name, "fault": "CRC differs"}],
            "windows": [
                {
                    "backup": "20261123T120500Z-full",
                    "timeline": 1,
                    "reaches": "0/1E00000",
                    "lost_at": segment(30).name,
                }
            ],
            "starts_again": False,
        }
        assert found[CHECKED]["ok"] is False

    def test_a_gap_that_leaves_no_window_for_new_commits(self) -> None:
        payload = named(wal_events("main", BROKEN, starts_again=True))[GAP]
        assert payload["meaning"].endswith("; none is left for new commits, so a base backup is taken now")
        assert payload["command"] == "pgproof list main"
        assert payload["starts_again"] is True

    def test_repaired(self) -> None:
        came = [(segment(30).name, "the source"), (segment(31).name, 'copy "far"')]
        found = named(wal_events("main", WHOLE, came))
        assert list(found) == [REPAIRED, WHOLE_ARCHIVE, CURRENT, CHECKED]
        assert found[REPAIRED] == {
            "what": "2 segments of cluster main are back",
            "meaning": "recovery can cross them again",
            "command": "pgproof wal check main --content",
            "repaired": 2,
            "segments": [
                {"segment": segment(30).name, "source": "the source"},
                {"segment": segment(31).name, "source": 'copy "far"'},
            ],
        }

    def test_some_are_repaired_and_others_not(self) -> None:
        found = named(wal_events("main", BROKEN, [(segment(7).name, "the source")]))
        assert list(found) == [REPAIRED, GAP, CURRENT, CHECKED]
        assert found[REPAIRED]["what"] == "1 segment of cluster main is back"
        assert found[REPAIRED]["meaning"].endswith("others are not back: pgproof.wal.gap names them")

    def test_lag(self) -> None:
        payload = named(wal_events("main", replace(WHOLE, rpo_seconds=600.0)))[LAG]
        assert payload["what"] == "the archive of cluster main is 10 min behind"
        assert (
            payload["meaning"]
            == "if the source died now, at most 10 min would be lost; the target is 5 min: exceeded"
        )
        assert payload["command"] == "pgproof doctor main"
        assert (payload["target_seconds"], payload["rpo_seconds"]) == (300, 600.0)

    def test_the_target_is_met_up_to_its_last_second(self) -> None:
        assert LAG not in named(wal_events("main", replace(WHOLE, rpo_seconds=300.0)))

    def test_an_archiver_that_fails_is_lag(self) -> None:
        found = replace(WHOLE, archiver_failing=f"{segment(60)} failed", rpo_seconds=None)
        payload = named(wal_events("main", found))[LAG]
        assert payload["what"] == f"WAL of cluster main does not reach the archive: {segment(60)} failed"
        assert "an unknown time would be lost" in payload["meaning"]

    def test_thousands_of_gaps_make_no_event_that_the_server_refuses(self) -> None:
        report = replace(BROKEN.report, gaps=tuple(gap(2 * n) for n in range(10_000)))
        payload = named(wal_events("main", replace(BROKEN, report=report)))[GAP]
        assert (payload["missing"], len(payload["gaps"])) == (10_000, 50)
        assert len(json.dumps(payload)) < 20_000

    @pytest.mark.parametrize("found", [WHOLE, BROKEN], ids=["whole", "broken"])
    def test_payloads_are_json_as_they_stand(self, found: WalCheck) -> None:
        for event in wal_events("main", found, [("a", "b")]):
            assert json.loads(json.dumps(event.payload)) == event.payload


@task(**settings("look", 60), **{**RETRY, "retry_delay_seconds": 0})
def look_three_times(tries: list[int]) -> WalCheck:
    tries.append(1)
    if len(tries) < 3:
        raise StoreUnavailable("could not reach the store")
    return BROKEN


@flow
def checking(cluster: str) -> None:
    found = look_three_times([])
    emit(cluster, wal_events(cluster, found))


@pytest.mark.usefixtures("prefect")
class TestAtTheServer:
    def test_they_arrive_once_though_the_task_was_tried_three_times(self) -> None:
        cluster = f"c{uuid4().hex[:8]}"
        done = run(checking, cluster)
        seen = until(lambda: look(done.state), lambda found: bool(found.task_runs))
        assert seen.attempts == {"look": 3}
        arrived = until(lambda: events_of(cluster), lambda events: len(events) >= 3)
        assert sorted(event["event"] for event in arrived) == [CHECKED, CURRENT, GAP]
        payloads = {event["event"]: event["payload"] for event in arrived}
        assert payloads == named(wal_events(cluster, BROKEN))
        for event in arrived:
            assert event["resource"] == resource_of(cluster)
            related = {one["prefect.resource.id"] for one in event["related"]}
            assert f"prefect.flow-run.{done.flow_run.id}" in related

    def test_an_automation_calls_a_webhook_once_an_hour(self, webhook: Webhook) -> None:
        cluster = f"c{uuid4().hex[:8]}"
        trigger = EventTrigger(
            expect={GAP, LAG},
            match={"prefect.resource.id": f"pgproof.cluster.{cluster}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(hours=1),
        )
        with automation(cluster, trigger, webhook):
            run(checking, cluster)
            run(checking, cluster)  # within the hour: the gap is still there, and nobody is called again
            until(lambda: events_of(cluster), lambda events: len(events) >= 6)
            received = until(lambda: list(webhook.received), bool)
        assert received == [
            {
                "subject": f"WAL of cluster {cluster} is not whole: 3 segments missing and 1 segment damaged",
                "body": "1 of 2 recovery windows end before the archive does."
                f" Run: pgproof wal check {cluster}",
            }
        ]

    def test_a_check_that_does_not_come_is_noticed(self, webhook: Webhook) -> None:
        cluster = f"c{uuid4().hex[:8]}"
        trigger = EventTrigger(
            after={CHECKED},
            expect={CHECKED},
            match={"prefect.resource.id": f"pgproof.cluster.{cluster}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=10),
        )
        with automation(cluster, trigger, webhook):
            run(checking, cluster)
            until(lambda: events_of(cluster), lambda events: len(events) >= 3)
            assert until(lambda: list(webhook.received), bool)


@contextmanager
def automation(cluster: str, trigger: EventTrigger, webhook: Webhook) -> Iterator[None]:
    """An automation that posts the words of an event, for the time of a block; as docs/prefect.md has it."""
    block = CustomWebhookNotificationBlock(
        name="pgproof-test", url=webhook.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    identifier = block.save(f"pgproof-test-{cluster}")
    assert isinstance(identifier, UUID)
    words = SendNotification(
        block_document_id=identifier,
        subject="{{ event.payload.what }}",
        body="{{ event.payload.meaning }}. Run: {{ event.payload.command }}",
    )
    made = Automation(name=f"of {cluster}", trigger=trigger, actions=[words]).create()
    try:
        yield
    finally:
        with get_client(sync_client=True) as client:
            client.delete_automation(made.id)


class Webhook:
    """A web server on loopback that keeps what is posted."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alert"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever, daemon=True)
    thread.start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()
    thread.join()
