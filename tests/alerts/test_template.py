"""The file of alerts: what it holds, what is refused, and in which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments.alerts.template import PACKAGED, read_alerts
from pgproof.errors import ConfigError
from tests.servers.postgres import PROJECT

WORDS = "subject: s\n    body: b\n    over_subject: s\n    over_body: b\n"
GAP = f"alerts:\n  - name: gap\n    title: Gap\n    when: [a.b]\n    over: [a.c]\n    {WORDS}"


def test_the_packaged_file() -> None:
    read = read_alerts()
    assert read.path == PACKAGED == PROJECT / "deployments" / "alerts.yaml"
    assert [template.name for template in read.templates] == [
        "wal-gap",
        "wal-lag",
        "rpo",
        "backup-overdue",
        "storage",
        "proof-failed",
        "restore-broken",
        "proof-stale",
        "rto",
        "fleet",
        "no-check",
        "no-backup",
        "no-proof",
        "flow-failed",
        "flow-crashed",
        "flow-late",
        "test",
    ]
    silences = {one.name: one.silence.seconds for one in read.templates if one.silence}
    assert silences == {"no-check": 1800, "no-backup": 26 * 3600, "no-proof": 8 * 86400}


def test_the_ui_says_what_the_runbook_says() -> None:
    """Of the trigger of an automation Prefect's UI says nothing, so that its description has to."""
    page = (PROJECT / "docs" / "runbooks" / "alerts.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", page, re.MULTILINE))
    for template in read_alerts().templates:
        assert template.about == rows[template.name].replace("`", "")


def test_every_message_names_cluster_alert_and_command() -> None:
    for template in read_alerts().for_cluster("shop"):
        assert "$" not in template.subject + template.body + template.over_subject + template.over_body
        assert "luster shop" in template.body or template.silence
        assert "\nRun: " in template.body
        assert template.name in template.body
        assert len(template.subject.replace("{{ flow.name }}", "restore-validation")) < 80


def test_an_alert_takes_the_words_that_it_lacks_from_the_messages(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text(
        "messages: {subject: one $cluster, body: two $alert}\n"
        "alerts:\n  - {name: gap, title: Gap, when: a.b, every: true, body: own}\n"
        "  - {name: lag, title: Lag, when: a.b, every: true}\n"
    )
    first, second = read_alerts(path).for_cluster("shop")
    assert (first.subject, first.body) == ("one shop", "own")
    assert (second.subject, second.body, second.when) == ("one shop", "two lag", ("a.b",))


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "alerts.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_alerts(path)
    return str(caught.value).replace(str(path), "FILE").replace(str(PACKAGED), "PACKAGED")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("alerts: []", "alerts: Tuple should have at least 1 item after validation, not 0"),
        ("- x", "Input should be a valid dictionary or instance of _File"),
        (
            GAP.replace("when: [a.b]", "wen: [a.b]"),
            'alerts.gap.wen: there is no such key; did you mean "when"?',
        ),
        (
            GAP.replace("[a.b]", "[pgproof.*]"),
            'alerts.gap.when: Value error, "pgproof.*" is no name of an event, such as "pgproof.wal.gap"',
        ),
        (
            GAP.replace("    over: [a.c]\n", ""),
            "alerts.gap: Value error, an alert that nothing ends would be told once for ever: "
            "add over, or every: true",
        ),
        (
            GAP.replace("    when: [a.b]\n", ""),
            "alerts.gap: Value error, an alert has either when or silence",
        ),
        (
            GAP.replace("when: [a.b]", "silence: {of: [a.b], for: 5s}"),
            "alerts.gap.silence.for: Input should be greater than or equal to 10",
        ),
        (
            GAP.replace("when: [a.b]", "silence: {of: [a.b], for: 5 weeks}"),
            'alerts.gap.silence.for: Value error, "5 weeks" needs a number and a unit of s, min, h, d, such as "5min"',
        ),
        (GAP.replace("over: [a.c]", "each: true"), "alerts.gap: Value error, an alert that nothing ends"),
        (GAP.replace("title: Gap", "title: Gap*"), "alerts.gap.title: String should match pattern"),
    ],
)
def test_wrong_values_bad(tmp_path: Path, text: str, detail: str) -> None:
    said = refused(tmp_path, text)
    assert said.startswith('alerts "FILE" have wrong values\nDETAIL: ')
    assert detail in said
    assert said.endswith("\nHINT: compare with PACKAGED")


def test_other_faults_bad(tmp_path: Path) -> None:
    assert refused(tmp_path, "alerts: [").startswith(
        'alerts "FILE" are not valid YAML\nDETAIL: while parsing'
    )
    assert refused(tmp_path, GAP + GAP.removeprefix("alerts:\n")) == (
        'alerts "FILE" name one alert twice\nDETAIL: gap.\nHINT: each has a name of its own'
    )
    assert refused(tmp_path, GAP.replace("body: b\n    over_s", "body: ''\n    over_s")) == (
        'alert "gap" of "FILE" has no body\nHINT: add it, or to messages'
    )
    assert refused(tmp_path, GAP.replace("over_body: b", "over_body: '{{ x'")) == (
        'alert "gap" of "FILE" has a wrong over_body\n'
        "DETAIL: unexpected end of template, expected 'end of print statement'.."
    )
    with pytest.raises(ConfigError, match=f'cannot read alerts "{tmp_path}/none"\nDETAIL: No such file'):
        read_alerts(tmp_path / "none")
