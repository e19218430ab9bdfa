"""What holds for every plan, whatever happened to the cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.retention.plan import ExpireFacts, ExpirePlan, plan_expire
from pgproof.wal.runs import Numbers
from tests.retention.archives import names, policy, positions
from tests.retention.lives import Life, limits, live, steps

quick = settings(max_examples=120)


def after(found: ExpireFacts, plan: ExpirePlan) -> ExpireFacts:
    """The facts when the plan has been carried out."""
    entries = tuple(entry for entry in found.catalog.entries if entry.label in plan.kept)
    gone = set(plan.remove_wal)
    removed = {
        timeline: Numbers(n for t, n in positions(gone) if t == timeline) for timeline in found.timelines
    }
    removed = {t: numbers | found.removed.get(t, Numbers()) for t, numbers in removed.items()}
    left = tuple(info for info in found.wal if info not in gone)
    return replace(found, catalog=Catalog(entries), wal=left, removed=removed)


def whole(backup: BackupEntry, labels: set[str], backups: dict[str, BackupEntry]) -> bool:
    while backup.record.parent is not None:
        if backup.record.parent not in labels:
            return False
        backup = backups[backup.record.parent]
    return True


@quick
@given(steps, limits)
def test_invariant_4_wal_that_a_kept_backup_needs_is_never_removed(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    life = live(taken)
    found = life.facts(**bounds)
    plan = plan_expire(found)
    removed = set(positions(plan.remove_wal))
    kept = [backup for backup in life.backups if backup.label in plan.kept]
    for backup in kept:
        assert not life.own(backup) & removed
    for end in life.ends:
        reaching = [backup for backup in kept if life.reaches(backup, end)]
        old = [backup for backup in reaching if backup.record.stopped_at <= found.cutoff]
        for backup in [*old[-1:], *(b for b in reaching if b not in old)]:
            assert not life.replay(backup, end) & removed


SPLIT_OFF = [
    ("split", 9, 0),
    ("full", 1, 0),
    ("drill", 0, 1),
    ("wait", 4, 0),
    ("full", 1, 0),
    ("drill", 0, 2),
]


@quick
@given(steps, limits)
@example(SPLIT_OFF, {"daily": 0, "weekly": 0, "monthly": 0, "wal_window": 86400})
def test_invariant_4_every_window_reaches_back_as_far_as_it_did(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    """Whatever end could be reached from a usable backup as old as the window can be reached afterwards."""
    life = live(taken)
    found = life.facts(**bounds)
    plan = plan_expire(found)
    kept = {backup.label for backup in life.backups if backup.label in plan.kept}
    removed = set(positions(plan.remove_wal))
    for end in life.ends:
        reaching = [b for b in life.backups if life.reaches(b, end) and not b.failed]
        old = [b for b in reaching if b.record.stopped_at <= found.cutoff]
        for before in old[-1:] or reaching[:1]:
            bases = [
                b for b in reaching if b.label in kept and b.record.stopped_at <= before.record.stopped_at
            ]
            assert bases, f"no base for timeline {end}"
            assert not life.replay(bases[-1], end) & removed


@quick
@given(steps, limits, st.lists(st.integers(0, 72), min_size=1, max_size=4))
def test_invariant_4_the_window_stays_as_time_passes_and_plans_are_carried_out(
    taken: list[tuple[str, int, int]], bounds: dict[str, int], hours: list[int]
) -> None:
    """Expiring while the cluster lives: each expire keeps what the one before it left for the window."""
    life = Life()
    life.act("write", 4, 0)
    life.act("full", 1, 0)
    for count, (action, amount, choice) in enumerate(taken):
        life.act(action, amount, choice)
        if count % 4 == 3:
            life.now += timedelta(hours=hours[count % len(hours)])
            found = life.facts(**bounds)
            plan = plan_expire(found)
            reaching = {
                end: [b for b in life.backups if life.reaches(b, end) and not b.failed] for end in life.ends
            }
            life.backups = [backup for backup in life.backups if backup.label in plan.kept]
            life.segments -= {
                position
                for position, name in zip(positions(plan.remove_wal), names(plan.remove_wal), strict=True)
                if len(name) == 24
            }
            for end, before in reaching.items():
                old = [b for b in before if b.record.stopped_at <= found.cutoff]
                assert not old or any(b in life.backups for b in old), f"timeline {end} lost its window"


@quick
@given(steps, limits)
def test_the_newest_and_the_newest_proven_never_expire(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    life = live(taken)
    plan = plan_expire(life.facts(**bounds))
    proven = [backup.label for backup in life.backups if backup.proven_at and not backup.failed]
    assert life.backups[-1].label in plan.kept
    assert set(proven[-1:]) <= set(plan.kept)
    for verdict in plan.expired:  # an older proven backup goes only when a newer proven one stays
        if verdict.state == "proven":
            assert any(label > verdict.label and label in plan.kept for label in proven)
    assert plan.proven == (proven[-1] if proven else None)


@quick
@given(steps, limits)
def test_kept_incrementals_keep_their_chains_and_removal_goes_from_the_leaves(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    life = live(taken)
    plan = plan_expire(life.facts(**bounds))
    backups = {backup.label: backup for backup in life.backups}
    listed = set(backups)
    for label in (*plan.remove_backups, None):
        assert all(whole(backups[known], listed, backups) for known in listed)
        listed -= {label or ""}
    assert listed == set(plan.kept)


@quick
@given(steps, limits)
def test_holds_keep_and_every_verdict_has_a_reason(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    life = live(taken)
    plan = plan_expire(life.facts(**bounds))
    held = {backup.label for backup in life.backups if backup.hold and backup.hold.active(life.now)}
    assert held <= set(plan.kept)
    assert all(verdict.reasons and all(verdict.reasons) for verdict in plan.verdicts)
    assert [verdict.label for verdict in plan.verdicts] == [backup.label for backup in life.backups]


@quick
@given(steps, limits)
def test_planning_again_after_expiring_finds_nothing_more(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    found = live(taken).facts(**bounds)
    plan = plan_expire(found)
    again = plan_expire(after(found, plan))
    assert again.is_empty
    assert [verdict for verdict in plan.verdicts if verdict.keep] == list(again.verdicts)
    assert again.warnings == plan.warnings


@quick
@given(steps, limits, st.integers(0, 40 * 24))
def test_a_later_plan_never_moves_a_window_back(
    taken: list[tuple[str, int, int]], bounds: dict[str, int], hours: int
) -> None:
    """Without new backups, what is kept later was kept before; time alone never brings a need back."""
    found = live(taken).facts(**bounds)
    plan = plan_expire(found)
    left = after(found, plan)
    later = plan_expire(replace(left, now=left.now + timedelta(hours=hours)))
    assert set(later.kept) <= set(plan.kept)
    assert later.proven == plan.proven
    assert not set(later.remove_wal) & set(plan.remove_wal)


@quick
@given(steps, limits)
def test_a_wider_policy_keeps_no_less(taken: list[tuple[str, int, int]], bounds: dict[str, int]) -> None:
    found = live(taken).facts(**bounds)
    wider = replace(found, policy=policy(**{**bounds, "daily": bounds["daily"] + 2, "monthly": 3}))
    assert set(plan_expire(found).kept) <= set(plan_expire(wider).kept)


@quick
@given(steps, limits)
def test_wal_newer_than_the_newest_backup_and_histories_stay(
    taken: list[tuple[str, int, int]], bounds: dict[str, int]
) -> None:
    life = live(taken)
    plan = plan_expire(life.facts(**bounds))
    newest = life.backups[-1].record.start_lsn
    for (_, number), name in zip(positions(plan.remove_wal), names(plan.remove_wal), strict=True):
        assert (number + 1) * (1 << 20) <= newest
        assert not name.endswith(".history")
