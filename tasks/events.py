"""Events: what automations listen to. Each says what happened, what it means for recovery, and what to run.

They are emitted from a flow's body, never inside a task: a task that is tried again would emit them again, and a
server that stores one of them once fires an automation for each all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect.events import emit_event

from pgproof.gaps.check import WalCheck
from pgproof.gaps.gap import GapReport
from pgproof.gaps.loss import losses
from pgproof.postgres.names import shown_tree
from pgproof.wording import counted, duration, size

GAP = "pgproof.wal.gap"  # segments are missing or damaged, and were not repaired
REPAIRED = "pgproof.wal.repaired"  # some were, and are back
LAG = "pgproof.wal.lag"  # more would be lost than the target allows, or nobody knows; or the archiver fails
WHOLE = "pgproof.wal.whole"  # none is: the end of a gap
CURRENT = "pgproof.wal.current"  # no more would be lost than the target allows: the end of a lag
CHECKED = "pgproof.wal.checked"  # the check worked, whatever it found: for whoever waits for it in vain
_LONGEST = 50  # entries of a list in a payload, each of which is counted, too


@dataclass(frozen=True, slots=True)
class Event:
    """A name, and a payload of plain values that JSON knows."""

    name: str
    payload: dict[str, Any]


def resource_of(cluster: str) -> dict[str, str]:
    """The resource of a cluster's events, by which an automation matches them."""
    return {"prefect.resource.id": f"pgproof.cluster.{cluster}", "prefect.resource.name": cluster}


def emit(cluster: str, events: Sequence[Event]) -> None:
    """Send events to the server of this run; one that is lost hides nothing, because the run fails as well.

    A name in a payload may have bytes that are no UTF-8, and no event can hold those.
    """
    for event in events:
        emit_event(event.name, resource_of(cluster), payload=shown_tree(event.payload))


def wal_events(
    cluster: str,
    found: WalCheck,
    repaired: Sequence[tuple[str, str]] = (),
    starts_again: bool = False,
) -> list[Event]:
    """The events of one gap check, after its repair.

    Args:
        cluster: its name.
        found: by the check that came last.
        repaired: segments that were brought back, each with where it came from.
        starts_again: a base backup follows, because no window is left for new commits.
    """
    events = [_repaired(cluster, found, repaired)] if repaired else []
    gap = not found.report.ok
    events.append(_gap(cluster, found.report, starts_again) if gap else _whole(cluster, found.report))
    late = found.archiver_failing or found.stalled or found.rpo_breached or found.doubts
    events.append(_lag(cluster, found) if late else _current(cluster, found))
    return [*events, _checked(cluster, found)]


def _gap(cluster: str, report: GapReport, starts_again: bool) -> Event:
    lost = losses(report)
    missing = sum(gap.count for gap in report.gaps)
    parts = [f"{counted(missing, 'segment')} missing"] if missing else []
    parts += [f"{counted(len(report.damaged), 'segment')} damaged"] if report.damaged else []
    parts += dict.fromkeys(one.meanwhile for one in report.breaks)
    meaning = f"{len(lost)} of {counted(len(report.windows), 'recovery window')} end before the archive does"
    if starts_again:
        meaning += "; none is left for new commits, so a base backup is taken now"
    payload = {
        **words(
            f"WAL of cluster {cluster} is not whole: {' and '.join(parts)}",
            meaning,
            f"pgproof list {cluster}" if starts_again else f"pgproof wal check {cluster}",
        ),
        "missing": missing,
        "gaps": [
            {"first": g.first.name, "last": g.last.name, "segments": g.count, "from_lsn": str(g.first.start)}
            for g in report.gaps[:_LONGEST]
        ],
        "damaged": [{"segment": name, "fault": fault} for name, fault in report.damaged[:_LONGEST]],
        "windows": [
            {
                "backup": loss.window.backup,
                "timeline": loss.window.timeline,
                "reaches": str(loss.segment.start),
                "lost_at": loss.segment.name,
            }
            for loss in lost[:_LONGEST]
        ],
        "starts_again": starts_again,
    }
    return Event(GAP, payload)


def _whole(cluster: str, report: GapReport) -> Event:
    reach = "reaches" if len(report.windows) == 1 else "reach"
    windows = f"{counted(len(report.windows), 'recovery window')} {reach} the end of the archive"
    return Event(
        WHOLE,
        {
            **words(
                f"WAL of cluster {cluster} is whole",
                windows if report.windows else "there is no recovery window yet",
                f"pgproof wal check {cluster}",
            ),
            "segments": report.segments,
            "windows": len(report.windows),
        },
    )


def _repaired(cluster: str, found: WalCheck, repaired: Sequence[tuple[str, str]]) -> Event:
    meaning = "recovery can cross them again"
    if not found.report.ok:
        meaning = f"recovery can cross them again, but others are not back: {GAP} names them"
    payload = {
        **words(
            f"{counted(len(repaired), 'segment')} of cluster {cluster} {'is' if len(repaired) == 1 else 'are'} back",
            meaning,
            f"pgproof wal check {cluster} --content",
        ),
        "repaired": len(repaired),
        "segments": [{"segment": name, "source": source} for name, source in repaired[:_LONGEST]],
    }
    return Event(REPAIRED, payload)


def _lag(cluster: str, found: WalCheck) -> Event:
    lost = "an unknown time" if found.rpo_seconds is None else f"at most {duration(found.rpo_seconds)}"
    target = "none" if found.rpo_target is None else duration(found.rpo_target)
    stopped = found.archiver_failing or found.stalled
    what = f"WAL of cluster {cluster} does not reach the archive: {stopped}"
    if not stopped and found.rpo_breached:
        what = f"the archive of cluster {cluster} is {duration(found.rpo_seconds or 0)} behind"
    elif found.ahead:
        what = f"the source of cluster {cluster} was set back: the archive is ahead of it"
    elif not stopped:
        what = f"nobody knows how far the archive of cluster {cluster} is behind: {found.doubts[0]}"
    payload = {
        **words(
            what,
            f"if the source died now, {lost} would be lost; the target is {target}"
            + (": exceeded" if found.rpo_breached else ""),
            f"pgproof doctor {cluster}",
        ),
        "target_seconds": found.rpo_target,
        "archiver_failing": found.archiver_failing,
        "stalled": found.stalled,
        "doubts": list(found.doubts),
        **_position(found),
    }
    return Event(LAG, payload)


def _current(cluster: str, found: WalCheck) -> Event:
    lost = "an unknown time" if found.rpo_seconds is None else f"at most {duration(found.rpo_seconds)}"
    target = "none" if found.rpo_target is None else duration(found.rpo_target)
    payload = {
        **words(
            f"WAL of cluster {cluster} reaches the archive",
            f"if the source died now, {lost} would be lost; the target is {target}",
            f"pgproof wal check {cluster}",
        ),
        "target_seconds": found.rpo_target,
        **_position(found),
    }
    return Event(CURRENT, payload)


def _checked(cluster: str, found: WalCheck) -> Event:
    report = found.report
    whole = "whole" if report.ok else "not whole"
    reach = "the source did not answer" if found.source_error else "behind by an unknown amount"
    reach = reach if report.lag is None else f"{size(report.lag)} behind the source"
    payload = {
        **words(
            f"WAL of cluster {cluster} was checked and is {whole}",
            f"{counted(len(report.windows), 'recovery window')}, {reach}",
            f"pgproof wal check {cluster}",
        ),
        "ok": found.ok,
        "segments": report.segments,
        "windows": len(report.windows),
        **_position(found),
    }
    return Event(CHECKED, payload)


def words(what: str, meaning: str, command: str) -> dict[str, Any]:
    """The three sentences for people that every payload has."""
    return {"what": what, "meaning": meaning, "command": command}


def _position(found: WalCheck) -> dict[str, Any]:
    """How far the archive is, and how far it is behind."""
    return {
        "newest": found.report.newest.name if found.report.newest else None,
        "newest_commit": found.newest_commit.isoformat() if found.newest_commit else None,
        "rpo_seconds": found.rpo_seconds,
        "lag_bytes": found.report.lag,
        "in_flight": found.report.in_flight,
        "source_error": found.source_error,
    }
