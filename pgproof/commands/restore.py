"""``restore``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgproof.commands.backups import now
from pgproof.commands.console import Console, Session, line
from pgproof.config import ClusterConfig
from pgproof.errors import InvalidTarget, ProgramMissing
from pgproof.postgres.programs import find_bin_directory
from pgproof.restore.command_line import by_hand
from pgproof.restore.plan import RestorePlan, RestoreRequest
from pgproof.restore.procedure import make_plan, run_plan
from pgproof.restore.restored import has_taken
from pgproof.wording import counted, duration, size


def restore(session: Session, name: str, request: RestoreRequest, dry_run: bool) -> int:
    """Plan a restore, show the plan, and do it."""
    cluster = session.cluster(name)
    archive = session.archive(cluster)
    with session.progress("read WAL", None) as reading:
        plan = make_plan(session.config, cluster, archive, request, now(), reading)
    said: tuple[str, ...] = ()
    content: dict[str, Any] = {
        "backup": plan.record.label,
        "destination": str(request.destination),
        "target": str(request.target),
        "timeline": plan.history.timeline,
        "segments": len(plan.segments),
        "room": plan.room,
        "steps": plan.steps(),
        "warnings": list(plan.warnings),
        "done": not dry_run,
    }
    if not session.json:
        show_plan(session.console, plan)
    if not dry_run:
        with session.progress(f"restore {name}", sum(record.raw_size for record in plan.chain)) as progress:
            said = run_plan(session.config.path, cluster, archive, plan, now, progress)
            content["warnings"] += said
    content["next"] = next_steps(
        cluster, plan
    )  # they depend on which configuration files came with the backup
    session.show(content, lambda console: show_end(console, cluster, plan, dry_run, said))
    return 0


def parse_tablespaces(options: list[str]) -> Mapping[str, str]:
    """``OLD=NEW`` options as a mapping."""
    pairs = {}
    for option in options:
        old, equals, new = option.partition("=")
        if not equals or not old or not Path(new).is_absolute():
            raise InvalidTarget(
                f'invalid tablespace mapping "{option}"',
                "It is OLD=NEW with absolute paths.",
                "--tablespace /old=/new",
            )
        pairs[old] = new
    return pairs


def next_steps(cluster: ClusterConfig, plan: RestorePlan) -> list[str]:
    """What to type next."""
    data = shlex.quote(str(plan.request.destination))
    try:
        directory = find_bin_directory(plan.record.major, cluster.bin_directory)
    except ProgramMissing:
        directory = None
    made = plan.request.destination
    missing = made.is_dir() and not (made / "postgresql.conf").exists() and not has_taken(made)
    named = " --config-file FILE  # the source kept its postgresql.conf elsewhere" if missing else ""
    steps = [f"pgproof start {data}{named}"]
    if plan.request.target_action == "shutdown" and plan.request.target.kind != "end":
        steps.append(
            f"pgproof start {data} --pause  # it shuts down at its target, and pauses there this time"
        )
    if plan.request.isolated:
        steps.append(f"pgproof accept {data}  # when it becomes the server; until then it is isolated")
    elif not plan.request.standby:
        steps.append(f"pgproof accept {data}  # takes the recovery settings out, and starts it for everybody")
    return [*steps, f"{by_hand(plan.request.destination, directory)}  # the first step without pgproof"]


def show_plan(console: Console, plan: RestorePlan) -> None:
    """The plan as numbered steps."""
    console.print(f"restore of cluster {plan.record.cluster} to {plan.request.target}")
    for number, step in enumerate(plan.steps(), 1):
        console.print(f"  {number}. {step}")
    first, last = plan.segments[0], plan.segments[-1]
    read = f", read in {duration(plan.reading.seconds)}" if plan.reading else ""
    console.print(
        f"  needs {size(plan.room)} of room and WAL {first} to {last} "
        f"({counted(len(plan.segments), 'segment')}, all there{read})"
    )
    for warning in plan.warnings:
        console.print(line("  ", ("warning", "yellow"), f": {warning}"))


def show_end(
    console: Console, cluster: ClusterConfig, plan: RestorePlan, dry_run: bool, said: Sequence[str]
) -> None:
    """What was done, what PostgreSQL's programs warned of, and what to type next."""
    if dry_run:
        console.print("dry run: nothing was written")
        return
    for warning in said:
        console.print(line("  ", ("warning", "yellow"), f": {warning}"))
    console.print(
        line(("restored", "green"), f" into {plan.request.destination}; it recovers when it is started:")
    )
    for step in next_steps(cluster, plan):
        console.print(f"  {step}")
