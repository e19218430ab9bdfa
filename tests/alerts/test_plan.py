"""What a file of alerts becomes on the server, and what is changed to get there; nothing here asks a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect.events.schemas.automations import EventTrigger, Posture, SequenceTrigger

from deployments.alerts.applying import Existing, plan_apply, seed
from deployments.alerts.automations import SET, TRIGGERED, Wanted, automations_of
from deployments.alerts.template import read_alerts

BLOCK = uuid4()
WANTED = automations_of("shop", read_alerts().templates, [BLOCK])
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def find(owner: str) -> Wanted:
    (found,) = [one for one in WANTED if one.owner == f"pgproof.alert.shop.{owner}"]
    return found


def trigger(owner: str) -> EventTrigger:
    found = find(owner).core.trigger
    assert isinstance(found, EventTrigger)
    return found


def sequence(owner: str) -> list[EventTrigger]:
    """The parts of a sequence; none has ``after``, which the server may lose on SQLite."""
    found = find(owner).core.trigger
    assert isinstance(found, SequenceTrigger) and found.within is None
    parts = [part for part in found.triggers if isinstance(part, EventTrigger)]
    assert all(
        (part.after, part.within, part.posture) == (set(), timedelta(0), Posture.Reactive) for part in parts
    )
    return parts


def existing(wanted: list[Wanted]) -> list[Existing]:
    return [Existing(uuid4(), one.owner, one.core, NOW) for one in wanted]


class TestAutomations:
    def test_there_is_a_beginning_of_each_and_an_end_where_there_is_one(self) -> None:
        owners = [one.owner for one in WANTED]
        assert len(owners) == len(set(owners)) == 33
        assert [
            owner for owner in owners if not owner.endswith(".over") and f"{owner}.over" not in owners
        ] == ["pgproof.alert.shop.test"]

    def test_the_description_says_when_it_comes(self) -> None:
        made = "Alert wal-gap, made by pgproof alerts apply, which puts back what is changed here."
        about = "WAL is missing or damaged, and could not be repaired."
        assert find("wal-gap").core.description == f"{about} {made}"
        assert find("wal-gap.over").core.description == f"The end of it, once it was told: {about} {made}"

    def test_a_state_begins_with_the_first_event_after_its_end(self) -> None:
        end, begin = sequence("wal-gap")
        assert (end.expect, begin.expect) == ({SET, "pgproof.wal.whole"}, {"pgproof.wal.gap"})
        about = {"prefect.resource.id": ["pgproof.cluster.shop", "pgproof.alert.shop.wal-gap"]}
        assert end.match.root == begin.match.root == about  # type: ignore[union-attr]

    def test_and_ends_in_the_other_order(self) -> None:
        begin, end = sequence("wal-gap.over")
        assert (begin.expect, end.expect) == ({"pgproof.wal.gap"}, {"pgproof.wal.whole"})

    def test_the_end_of_a_silence_needs_that_it_was_told(self) -> None:
        begin, end = sequence("no-check.over")
        assert (begin.expect, end.expect) == ({TRIGGERED}, {"pgproof.wal.checked"})
        assert begin.match.root == {  # type: ignore[union-attr]
            "prefect.resource.id": "prefect.automation.*",
            "prefect.resource.name": find("no-check").core.name,
        }
        assert find("no-check").core.name == "pgproof shop: nobody checks"

    def test_a_silence_is_missed_from_the_start(self) -> None:
        found = trigger("no-check")
        assert (found.after, found.expect) == ({SET, "pgproof.wal.checked"}, {"pgproof.wal.checked"})
        assert (found.posture, found.within) == (Posture.Proactive, timedelta(minutes=30))
        assert found.for_each == {"prefect.resource.name"}  # without it the server nags
        assert find("no-check").silent and find("no-check").seeded

    def test_flow_runs_are_those_with_both_tags(self) -> None:
        found = trigger("flow-failed")
        assert found.after == set() and found.within == timedelta(0)
        assert [spec.root for spec in found.match_related] == [  # type: ignore[union-attr]
            {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.pgproof"},
            {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.shop"},
            {"prefect.resource.role": "flow", "prefect.resource.name": "!wal-*"},
        ]
        assert trigger("flow-failed.over").for_each == {"related:deployment:prefect.resource.id"}

    def test_each_block_gets_each_message(self) -> None:
        blocks = [uuid4(), uuid4()]
        for one in automations_of("shop", read_alerts().templates, blocks):
            assert [action.block_document_id for action in one.core.actions] == blocks  # type: ignore[union-attr]

    def test_the_start_of_a_clock_is_about_its_alert_alone(self) -> None:
        event = seed(find("flow-late"))
        assert event["event"] == SET == "pgproof.alerts.set"
        assert event["resource"]["prefect.resource.id"] == "pgproof.alert.shop.flow-late"
        assert [one["prefect.resource.id"] for one in event["related"]] == [
            "prefect.tag.pgproof",
            "prefect.tag.shop",
        ]


class TestPlan:
    def test_nothing_is_there(self) -> None:
        steps = plan_apply(WANTED, [])
        assert {step.what for step in steps} == {"make"}
        assert [step.starts for step in steps] == [one.seeded for one in WANTED]

    def test_all_is_there(self) -> None:
        steps = plan_apply(WANTED, existing(WANTED))
        assert {step.what for step in steps} == {"keep"}
        assert [step.name for step in steps if step.starts] == [
            "pgproof shop: nobody checks",
            "pgproof shop: no word of a backup",
            "pgproof shop: no word of a proof",
        ]

    def test_whoever_made_it_died_before_its_clock_was_started(self) -> None:
        there = existing(WANTED)
        steps = plan_apply(WANTED, there, {there[0].id, there[1].id})
        started = [step.wanted.owner for step in steps if step.starts and step.wanted]
        assert "pgproof.alert.shop.wal-gap" in started
        assert (
            "pgproof.alert.shop.wal-gap.over" not in started
        )  # it waits for its beginning, and has no clock

    @pytest.mark.parametrize("part", ["name", "trigger", "description"])
    def test_a_changed_one_is_made_anew(self, part: str) -> None:
        there = existing(WANTED)
        other = find("rto").core
        there[0] = Existing(
            there[0].id, there[0].owner, WANTED[0].core.model_copy(update={part: getattr(other, part)}), NOW
        )
        changed = [step for step in plan_apply(WANTED, there) if step.what != "keep"]
        (step,) = [step for step in changed if step.what == "replace"]
        assert (step.name, step.existing, step.starts) == ("pgproof shop: WAL gap", (there[0].id,), True)

    def test_another_block_makes_all_of_them_anew(self) -> None:
        others = automations_of("shop", read_alerts().templates, [uuid4()])
        assert {step.what for step in plan_apply(others, existing(WANTED))} == {"replace"}

    def test_one_that_is_there_twice_is_left_once(self) -> None:
        there = [*existing(WANTED), *existing(WANTED[:1])]
        steps = plan_apply(WANTED, there)
        (step,) = [step for step in steps if step.what == "remove"]
        assert step.existing == (there[-1].id,)
        assert len([step for step in steps if step.what == "keep"]) == len(WANTED)

    def test_one_that_the_file_has_no_more_is_removed(self) -> None:
        there = existing(WANTED)
        steps = plan_apply(WANTED[2:], there)
        gone = [step.existing for step in steps if step.what == "remove"]
        assert gone == [(there[0].id,), (there[1].id,)]

    def test_a_paused_one_stays_paused(self) -> None:
        there = existing(WANTED)
        paused = WANTED[0].core.model_copy(update={"enabled": False})
        there[0] = Existing(there[0].id, there[0].owner, paused, NOW)
        step = plan_apply(WANTED, there)[0]
        assert (step.what, step.paused) == ("keep", True)

    def test_one_that_is_off_by_default_stays_as_somebody_switched_it(self) -> None:
        off = find("rpo")
        assert (off.core.enabled, "off by default" in off.core.tags) == (False, True)
        (made,) = plan_apply([off], [])
        assert (made.paused, made.switched_on) == (False, False)
        on = off.core.model_copy(update={"enabled": True})
        for core, what in ((on, "keep"), (on.model_copy(update={"name": "of an older file"}), "replace")):
            (step,) = plan_apply([off], [Existing(uuid4(), off.owner, core, NOW)])
            assert (step.what, step.paused, step.switched_on) == (what, False, True)

    def test_a_file_that_switches_it_on_or_off_is_obeyed(self) -> None:
        off = find("rpo")
        tags = [tag for tag in off.core.tags if tag != "off by default"]
        on = Wanted("shop", "rpo", off.core.model_copy(update={"enabled": True, "tags": tags}))
        for wanted, there in ((on, off), (off, on)):
            (step,) = plan_apply([wanted], existing([there]))
            assert (step.what, step.paused, step.switched_on) == ("replace", False, False)

    def test_of_two_of_which_one_is_paused_none_stays_on_by_mistake(self) -> None:
        changed = [
            Wanted(one.cluster, one.alert, one.core.model_copy(update={"name": "x"})) for one in WANTED[:1]
        ]
        there = existing(changed)
        there[0] = Existing(
            UUID(int=1), WANTED[0].owner, there[0].core.model_copy(update={"enabled": False}), NOW
        )
        step = plan_apply(WANTED[:1], there)[0]
        assert (step.what, step.paused) == ("replace", True)
