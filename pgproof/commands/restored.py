"""``start``, ``stop`` and ``accept`` of a restored cluster; none of them needs the repository."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg

from pgproof.commands.console import Console, make_console, progress_bar, show
from pgproof.config import ClusterConfig, Config, load
from pgproof.errors import ApprovalMissing, ConfigError
from pgproof.repository.repository import Archive, find_archive, open_repository
from pgproof.restore.acceptance import AcceptancePlan, Accepted, accept, plan_acceptance
from pgproof.restore.prepared import PreparedTransaction
from pgproof.restore.record import FOLLOWING, OPEN, PAUSED, SHUT_DOWN, RestoreRecord, held
from pgproof.restore.restored import RestoredCluster, open_restored, with_config_file, with_pause
from pgproof.restore.standing import Standing
from pgproof.restore.start import Started, begin, stop
from pgproof.restore.unreadable import Unreadable, find_unreadable


def start(data: Path, config_file: Path | None, timeout: float | None, *, pause: bool, as_json: bool) -> int:
    """Start a restored cluster, wait for it, ask it where it stands, and compare that with the plan."""
    restored = with_config_file(open_restored(data), config_file)
    if pause:
        restored = with_pause(restored)
    console = make_console()
    if not as_json:
        console.print(f"starting the cluster in {data}; {restored.log} is its log")
    with progress_bar("recovery", None, quiet=as_json) as progress:
        started = begin(restored, timeout, progress)
    found, findings = started.standing, list(started.findings)
    steps = next_steps(restored, found) if not findings else []
    unreadable = _unreadable(restored, found)
    warnings = [f"warning: {text}" for text in unreadable.warnings()]
    content = {**_content(restored, found, findings, steps), **asdict(unreadable), "again": started.again}
    show(content, lambda console: _show(console, restored, started, [*warnings, *steps]), as_json)
    return 1 if findings else 0


def _unreadable(restored: RestoredCluster, found: Standing | None) -> Unreadable:
    """What nobody can read while it pauses; nothing where it does not say."""
    running = restored.running
    if running is not None and found is not None and found.state == PAUSED:
        with contextlib.suppress(psycopg.Error):
            return find_unreadable(restored, running)
    return Unreadable()


def _content(
    restored: RestoredCluster, found: Standing | None, findings: list[str], steps: list[str]
) -> dict[str, Any]:
    record, running = restored.record, restored.running
    return {
        "directory": str(restored.data),
        "cluster": record.cluster,
        "backup": record.backup,
        "target": record.target,
        "system_identifier": str(record.system_identifier),
        "state": found.state if found else SHUT_DOWN,
        "replayed": str(found.replayed) if found and found.replayed else None,
        "last_time": found.last_time.isoformat() if found and found.last_time else None,
        "plan": {
            "state": record.end,
            "least": record.least,
            "last": record.last and str(record.last),
            "following": record.following and str(record.following),
        },
        "socket": running.socket if running else None,
        "findings": findings,
        "prepared": [one.as_dict() for one in found.prepared] if found else [],
        "not_isolated": dict(found.acts) if found else {},
        "next": steps,
    }


def _show(console: Console, restored: RestoredCluster, started: Started, steps: list[str]) -> None:
    record, found, findings = restored.record, started.standing, started.findings
    if started.again:
        console.print(started.again, style="yellow")
    if findings:
        console.print(f"this is NOT what the plan of the restore said of {restored.data}:")
    else:
        console.print(
            f"this is the restored cluster: {record.cluster}, backup {record.backup}, in {restored.data}",
        )
    console.print(f"it is {found}" if found else "it shut itself down at its target, as planned")
    console.print(f"the plan said: {in_words(record)}")
    for finding in findings:
        console.print(f"finding: {finding}", style="red")
    if found and found.target_changed:
        console.print("its recovery target was changed since; the commits of the plan were not looked for")
    if found:
        _warn(console, found.prepared)
        for name, value in found.acts:
            console.print(
                f"warning: it is not isolated as it was restored: {name} = {value!r}",
                style="yellow",
            )
    for step in steps:
        console.print(f"  {step}")


def _warn(console: Console, prepared: Sequence[PreparedTransaction]) -> None:
    for one in prepared:
        console.print(f"warning: {one}", style="yellow")
        console.print(f"  {one.hint}")


def in_words(record: RestoreRecord) -> str:
    """What the plan of a restore said of where it ends."""
    states = {PAUSED: "paused", OPEN: "open for writing", FOLLOWING: "following the archive"}
    words = [f"{states.get(record.end, record.end)} at {record.target}"]
    if record.last:
        words.append(f"the last commit that is there is {record.last}")
    if record.following:
        words.append(f"the first that is not is {record.following}")
    if not (record.last or record.following):
        words.append(f"LSN {record.least} at least")
    return "; ".join(words)


def next_steps(restored: RestoredCluster, found: Standing | None) -> list[str]:
    """What to type next."""
    running = restored.running
    if found is None or running is None:
        return [f"pgproof start {restored.data} --pause  -- look at it: it pauses at its target this time"]
    steps = [f"psql -h {running.socket} -p {running.port} -d postgres  -- look at the data"]
    if found.state == FOLLOWING:
        return [*steps, f"pgproof stop {restored.data}  -- then start it as any other standby"]
    if restored.record.isolated and found.state == PAUSED:
        steps.append("SELECT pg_promote();  -- to write into it, and stay isolated")
    return [
        *steps,
        f"pgproof accept {restored.data}  -- it becomes the server",
        f"pgproof stop {restored.data}  -- and remove the directory, when you have what you need",
    ]


def stop_restored(data: Path, as_json: bool) -> int:
    """Stop the server of a restored cluster."""
    restored = open_restored(data)
    ran = stop(restored)
    said = "stopped" if ran else "no server runs in"
    show(
        {"directory": str(data), "stopped": ran},
        lambda console: console.print(f"{said} {data}"),
        as_json,
    )
    return 0


def accept_restored(
    data: Path, config: str | None, *, dry_run: bool, yes: bool, restart: bool, as_json: bool
) -> int:
    """Make a restored cluster the server, after its plan was shown and agreed to."""
    console = make_console()
    with held(data):
        restored = open_restored(data)
        settings = _config(config, restored.record)
        cluster = settings.cluster(restored.record.cluster) if settings else None
        plan = plan_acceptance(restored, cluster, _archive(settings, cluster))
        done = Accepted(plan.configured.prepared, ())
        if not as_json:
            show_acceptance(console, plan)
        if not dry_run:
            _agree(console, plan, yes, as_json)
            done = accept(plan, start=restart)
    content = {
        "directory": str(data),
        "steps": plan.steps(),
        "begins": plan.begins(),
        "cautions": [*plan.cautions, *done.warnings],
        "prepared": [one.as_dict() for one in done.prepared],
        "done": not dry_run,
    }
    show(content, lambda console: _show_accepted(console, plan, done, dry_run, restart), as_json)
    return 0


def _config(path: str | None, record: RestoreRecord) -> Config | None:
    """The pgproof.toml that was named, or that the restore was made with, when it has the cluster."""
    try:
        found = load(path or record.config or "")
        found.cluster(record.cluster)
    except ConfigError:
        if path:
            raise
        return None  # it is gone since
    return found


def _archive(config: Config | None, cluster: ClusterConfig | None) -> Callable[[], Archive] | None:
    if config is None or cluster is None:
        return None
    return lambda: find_archive(open_repository(config.repository_of(cluster)), cluster)


def _agree(console: Console, plan: AcceptancePlan, yes: bool, as_json: bool) -> None:
    asked = not yes and not as_json and sys.stdin.isatty()
    if asked and console.input("Accept it? yes or no: ").strip().lower() == "yes":
        return
    if not yes:
        raise ApprovalMissing(
            f'"{plan.restored.data}" was not accepted',
            "Nothing was changed.",
            f"pgproof accept {plan.restored.data} --yes",
        )


def show_acceptance(console: Console, plan: AcceptancePlan) -> None:
    """The plan as numbered steps, and what will begin to run."""
    record = plan.restored.record
    console.print(f"accept the restored cluster {record.cluster} in {plan.restored.data}")
    for number, step in enumerate(plan.steps(), 1):
        console.print(f"  {number}. {step}")
    console.print("what will begin:")
    for line in plan.begins():
        console.print(f"  {line}")
    for caution in plan.cautions:
        console.print(f"  warning: {caution}", style="yellow")


def _show_accepted(
    console: Console, plan: AcceptancePlan, done: Accepted, dry_run: bool, restart: bool
) -> None:
    _warn(console, done.prepared)
    for warning in done.warnings:
        console.print(f"warning: {warning}", style="yellow")
    if dry_run:
        console.print("dry run: nothing was changed")
        return
    data = plan.restored.data
    runs = "and runs" if restart else "and is stopped: start it as any other server"
    console.print(f"accepted: {data} is a cluster as any other now, {runs}")
    for step in (
        f"pgproof doctor {plan.restored.record.cluster}",
        f"pgproof backup {plan.restored.record.cluster}",
    ):
        console.print(f"  {step}")
