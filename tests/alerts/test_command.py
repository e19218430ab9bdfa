"""``pgproof alerts``: applied once and again, listed, tested, removed; the user's own automations stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import DoNothing

from deployments.alerts.applying import read_ours
from deployments.alerts.automations import automations_of
from deployments.alerts.notify import find_blocks
from deployments.alerts.question import alerts_of
from deployments.alerts.template import PACKAGED, read_alerts
from deployments.up import set_alerts
from pgproof.commands.console import Session
from pgproof.config import load
from tests.alerts.answers import answer, done, raw_automations
from tests.alerts.receivers import Inbox, Message
from tests.servers.postgres import PROJECT
from tests.servers.s3 import free_ports

WEBHOOK = "custom-webhook/pgproof-webhook"


def identities(client: SyncPrefectClient) -> dict[str, Any]:
    """Name to what the server has; one that was made anew has another id."""
    found = raw_automations(client)
    assert len({one["name"] for one in found}) == len(found)
    return {one["name"]: {k: v for k, v in one.items() if k != "updated"} for one in found}


def users_own() -> Automation:
    trigger = EventTrigger(expect={"pgproof.wal.gap"}, posture=Posture.Reactive, threshold=1)
    return Automation(name="pgproof shop: WAL gap of my own", trigger=trigger, actions=[DoNothing()]).create()


def test_the_life_of_alerts(config: Path, client: SyncPrefectClient, web: Inbox, tmp_path: Path) -> None:
    """One test, because to apply takes seconds: each check is a function of its own."""
    own = users_own()
    nothing_is_set_up(config)
    they_are_made(config, client, web)
    applying_again_changes_nothing(config, client)
    a_test_message_arrives(config, web)
    they_are_listed(config)
    what_was_changed_or_lost_is_put_back(config, client)
    a_paused_one_stays_paused(config, client)
    another_file_changes_what_differs(config, client, tmp_path)
    another_cluster_does_not_touch_them(config, client)
    they_are_removed(config, client)
    assert [one["id"] for one in raw_automations(client)] == [str(own.id)]


def nothing_is_set_up(config: Path) -> None:
    assert (
        done(config, "alerts", "list", "shop")
        == "no alert is set up for cluster shop:\n  pgproof alerts apply shop\n"
    )
    code, _, err = answer(config, "alerts", "test", "shop")
    assert (code, err) == (
        2,
        'pgproof: no alert is set up for cluster "shop"\nHINT: pgproof alerts apply shop\n',
    )
    read = load(config)
    (check,) = alerts_of(read.cluster("shop"), read)
    assert (check.name, check.state) == ("alerts", "advice")
    assert check.fact.startswith("none is set up on the Prefect server: nobody is told of a gap")
    assert check.mend == "pgproof alerts apply shop --notify slack-webhook/oncall"


def they_are_made(config: Path, client: SyncPrefectClient, web: Inbox) -> None:
    said = done(config, "alerts", "apply", "shop", "--webhook", web.url)
    assert said.startswith("made: pgproof shop: WAL gap\nmade: pgproof shop: WAL gap, over\n")
    assert said.endswith(
        "cluster shop: 33 automations changed, 0 as they should be\n"
        "see whether it arrives:\n  pgproof alerts test shop\n"
    )
    assert len(identities(client)) == 34
    block = client.read_block_document_by_name("pgproof-webhook", "custom-webhook", include_secrets=False)
    assert web.url not in json.dumps(block.model_dump(mode="json"))  # a token is in it, as a rule


def applying_again_changes_nothing(config: Path, client: SyncPrefectClient) -> None:
    before = identities(client)
    said = done(config, "alerts", "apply", "shop", "--notify", WEBHOOK)
    assert said.startswith("cluster shop: 0 automations changed, 33 as they should be\n")
    assert identities(client) == before


def a_test_message_arrives(config: Path, web: Inbox) -> None:
    said = done(config, "alerts", "test", "shop")
    assert said == f"a test message was sent by {WEBHOOK}; see whether it arrived\n"
    (message,) = web.wait(1)
    what = "this is a test of the alerts of cluster shop"
    assert message.subject == what
    assert message.body.startswith(
        f"{what}.\nIt means: alerts arrive here; nothing is wrong.\nRun: pgproof alerts list shop\n\nCluster shop, 20"
    )
    assert message.body.endswith(" UTC, alert test.")


def they_are_listed(config: Path) -> None:
    tree = json.loads(done(config, "alerts", "list", "--json"))["alerts"]
    assert len(tree) == 33
    (test,) = [one for one in tree if one["alert"] == "test"]
    assert (test["cluster"], test["state"], test["tells"], test["last"]) == ("shop", "on", [WEBHOOK], "sent")
    page = done(config, "alerts", "list", "shop")
    assert page.splitlines()[0].split() == ["cluster", "alert", "state", "tells", "last", "message", "UTC"]
    assert f"shop     test                 on     {WEBHOOK}  sent" in page
    read = load(config)
    (check,) = alerts_of(read.cluster("shop"), read)
    assert (check.state, check.fact) == ("ok", f"31 automations tell {WEBHOOK}")
    (rpo,) = [one for one in tree if one["alert"] == "rpo"]
    assert rpo["state"] == "off"  # no oversight


def what_was_changed_or_lost_is_put_back(config: Path, client: SyncPrefectClient) -> None:
    ours = {one.owner.removeprefix("pgproof.alert.shop."): one for one in read_ours(client, "shop")}
    changed = ours["rto"].core.model_copy(update={"name": "renamed"})
    client.update_automation(ours["rto"].id, changed)
    client.delete_automation(ours["rpo"].id)
    client.create_automation(ours["wal-gap"].core)  # by hand, or by two that applied at the same moment
    dry = done(config, "alerts", "apply", "shop", "--notify", WEBHOOK, "--dry-run")
    assert [line for line in dry.splitlines() if line.startswith("would be")] == [
        "would be removed: pgproof shop: WAL gap",
        "would be made: pgproof shop: RPO breached, off until it is switched on",
        "would be made anew: pgproof shop: RTO breached",
    ]
    said = done(config, "alerts", "apply", "shop", "--notify", WEBHOOK)
    assert said.splitlines()[:3] == [
        "removed: pgproof shop: WAL gap",
        "made: pgproof shop: RPO breached, off until it is switched on",
        "made anew: pgproof shop: RTO breached",
    ]
    assert len(identities(client)) == 34


def a_paused_one_stays_paused(config: Path, client: SyncPrefectClient) -> None:
    (gap,) = [one for one in read_ours(client, "shop") if one.owner == "pgproof.alert.shop.wal-gap"]
    client.pause_automation(gap.id)
    said = done(config, "alerts", "apply", "shop", "--notify", WEBHOOK)
    assert said.startswith("paused, and stays so: pgproof shop: WAL gap\n")
    read = load(config)
    (check,) = alerts_of(read.cluster("shop"), read)
    assert (check.state, check.fact) == ("advice", "paused: pgproof shop: WAL gap")


def another_file_changes_what_differs(config: Path, client: SyncPrefectClient, tmp_path: Path) -> None:
    before = identities(client)
    mine = tmp_path / "mine.yaml"
    text = PACKAGED.read_text().replace("30min", "45min").replace("  - name: rto\n", "  - name: too-slow\n")
    mine.write_text(text)
    done(config, "alerts", "apply", "shop", "--notify", WEBHOOK, "--file", str(mine))
    after = identities(client)
    differ = {name for name in after if before.get(name, {}).get("id") != after[name]["id"]}
    assert differ == {
        "pgproof shop: nobody checks",
        "pgproof shop: RTO breached",
        "pgproof shop: RTO breached, over",
    }
    assert after["pgproof shop: nobody checks"]["trigger"]["within"] == 2700
    assert len(after) == 34


def another_cluster_does_not_touch_them(config: Path, client: SyncPrefectClient) -> None:
    before = identities(client)
    config.write_text(config.read_text() + f'[alerts]\nnotify = "{WEBHOOK}"\n')
    session = Session.start(str(config), False)
    set_alerts(session, ["crm"])  # as pgproof up does
    after = identities(client)
    assert {name: after[name] for name in before} == before
    assert len(after) == 34 + 33


def they_are_removed(config: Path, client: SyncPrefectClient) -> None:
    code, _, err = answer(config, "alerts", "remove")
    assert (code, err) == (
        2,
        "pgproof: alerts of which cluster\nHINT: pgproof alerts remove NAME, or --all\n",
    )
    assert done(config, "alerts", "remove", "shop") == "33 automations removed\n"
    assert len(raw_automations(client)) == 34
    assert done(config, "alerts", "remove", "--all") == "33 automations removed\n"


def test_up_says_that_alerts_are_not_set(
    config: Path, client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session.start(str(config), False)
    set_alerts(session, ["shop"])  # nobody is named: nothing is said
    config.write_text(config.read_text() + '[alerts]\nnotify = "slack-webhook/gone"\n')
    set_alerts(Session.start(str(config), False), ["shop"])
    assert capsys.readouterr().out.startswith(
        'ALERTS ARE NOT SET: notification block "slack-webhook/gone" does not exist\n'
    )
    assert raw_automations(client) == []


def test_a_webhook_that_does_not_answer_is_said(config: Path, client: SyncPrefectClient) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/"
    done(config, "alerts", "apply", "shop", "--webhook", url)
    code, _, err = answer(config, "alerts", "test", "shop")
    assert (code, err) == (
        75,
        "pgproof: could not send the test message\n"
        "DETAIL: The Prefect server tried, and its block sent nothing within 30 s.\n"
        "HINT: does the address answer on the Prefect server's machine? its log says what came\n",
    )
    assert "not sent" in done(config, "alerts", "list", "shop")
    read = load(config)
    (check,) = alerts_of(read.cluster("shop"), read)
    assert check.fact == 'the last message of "pgproof shop: test message" could not be sent'
    client.delete_block_document(find_blocks(client, [WEBHOOK])[0])
    (check,) = alerts_of(read.cluster("shop"), read)
    assert check.fact == "their notification block was removed"


def test_a_mail_server_that_does_not_answer_is_said(config: Path, client: SyncPrefectClient) -> None:
    url = f"mailto://127.0.0.1:{free_ports(1)[0]}?from=pgproof@example.com&to=dba@example.com"
    done(config, "alerts", "apply", "shop", "--mailto", url)
    code, _, err = answer(config, "alerts", "test", "shop")
    assert code == 75
    assert err.startswith("pgproof: could not send the test message\nDETAIL: Notification failed. ")
    assert err.endswith("\nHINT: pgproof alerts list\n")
    assert "failed: Notification failed" in done(config, "alerts", "list", "shop")
    read = load(config)
    (check,) = alerts_of(read.cluster("shop"), read)
    assert check.fact.endswith("could not be sent: Notification failed")


def test_mail_arrives_with_its_lines(
    config: Path, client: SyncPrefectClient, mail: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_URL", mail.url)
    done(config, "alerts", "apply", "shop", "--mailto", "env:MAIL_URL")
    done(config, "alerts", "test", "shop")
    (message,) = mail.wait(1)
    assert isinstance(message, Message)
    assert message.subject == "this is a test of the alerts of cluster shop"
    assert message.body.splitlines()[:3] == [
        "this is a test of the alerts of cluster shop.",
        "It means: alerts arrive here; nothing is wrong.",
        "Run: pgproof alerts list shop",
    ]


NO_BLOCK = (
    "no notification block is named\nDETAIL: Nobody would be told.\n"
    "HINT: --notify slack-webhook/oncall, --webhook URL, --mailto URL, or notify in section [alerts] of pgproof.toml"
)
MAKE = "make it in the UI (Blocks, +), or let pgproof alerts apply --webhook URL or --mailto URL make one"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), NO_BLOCK),
        (
            ("--notify", "oncall"),
            'notification block "oncall" has no type\nHINT: such as slack-webhook/oncall',
        ),
        (
            ("--notify", "slack-webhook/none"),
            f'notification block "slack-webhook/none" does not exist\nDETAIL: There are: WHAT.\nHINT: {MAKE}',
        ),
        (
            ("--notify", "secret/words"),
            'block "secret/words" cannot notify\nHINT: choose a block of a notification type',
        ),
        (
            ("--webhook", "ftp://x"),
            "--webhook is no URL\nHINT: such as https://hooks.example.com/pgproof, or env:NAME",
        ),
        (
            ("--mailto", "mailto://user:hidden@"),
            "--mailto cannot be read\nHINT: such as "
            '"mailtos://user:password@smtp.example.com?from=pgproof@example.com&to=dba@example.com", or env:NAME',
        ),
    ],
)
def test_bad_blocks(config: Path, client: SyncPrefectClient, words: tuple[str, ...], message: str) -> None:
    from prefect.blocks.system import Secret

    Secret(value="x").save("words", overwrite=True)
    code, out, err = answer(config, "alerts", "apply", "shop", *words)
    known = ", ".join(find_known(client)) or "none"
    assert (code, out, err) == (2, "", f"pgproof: {message.replace('WHAT', known)}\n")
    assert raw_automations(client) == []


def find_known(client: SyncPrefectClient) -> list[str]:
    from deployments.alerts.notify import known_blocks

    return known_blocks(client)


def test_doctor_says_nothing_where_no_server_is_named_or_answers(config: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from deployments.alerts.question import alerts_of; from pgproof.config import load; "
        "c = load(sys.argv[1]); print(alerts_of(c.cluster('shop'), c))"
    )
    for url in ("", f"http://127.0.0.1:{free_ports(1)[0]}/api"):
        settings = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": url}
        asked = subprocess.run(
            [sys.executable, "-c", program, str(config)],
            env={**os.environ, "PYTHONPATH": str(PROJECT), **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (asked.stdout, asked.returncode) == ("[]\n", 0), asked.stderr


def test_what_the_server_holds_is_what_was_wanted(
    config: Path, client: SyncPrefectClient, web: Inbox
) -> None:
    """Each automation as the server answers it is the same as the one that was sent, or it would be made anew."""
    done(config, "alerts", "apply", "shop", "--webhook", web.url)
    wanted = {
        one.owner: one.core
        for one in automations_of("shop", read_alerts().templates, find_blocks(client, [WEBHOOK]))
    }
    for one in read_ours(client, "shop"):
        assert one.core.model_dump() == wanted[one.owner].model_dump()
