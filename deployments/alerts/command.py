"""``pgproof alerts``: apply, list, test and remove the alerts of clusters, on the server that PREFECT_API_URL names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.deploy import configured_clusters
from deployments.server import server
from flows.command import chosen_config, quiet_prefect
from flows.login import use_login
from pgproof.commands.console import Console, Session, table
from pgproof.config import AlertsConfig
from pgproof.errors import ConfigError
from pgproof.wording import counted

alerts = typer.Typer(
    help="Who is told by Prefect when recovery is in danger.", no_args_is_help=True, rich_markup_mode=None
)
AnyCluster = Annotated[str | None, typer.Argument(help="The cluster; default: all of pgproof.toml.")]
ConfigPath = Annotated[
    str | None, typer.Option("--config", help="Default: PGPROOF_CONFIG, else ./pgproof.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
FilePath = Annotated[
    Path | None, typer.Option("--file", help="Alerts to apply, instead of those that pgproof brings.")
]


def _session(context: typer.Context, config: str | None, json: bool) -> Session:
    quiet_prefect()
    session = Session.start(chosen_config(context, config), json)
    use_login(session.config.state)
    return session


@alerts.command()
def apply(
    context: typer.Context,
    name: AnyCluster = None,
    notify: Annotated[
        list[str] | None,
        typer.Option("--notify", help="TYPE/NAME of a notification block; as often as needed."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", help="URL that gets JSON; makes a block.")
    ] = None,
    mailto: Annotated[
        str | None, typer.Option("--mailto", help="Apprise's URL of mail; makes a block.")
    ] = None,
    file: FilePath = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Make the alerts on the Prefect server as the file has them; run it as often as wanted."""
    session = _session(context, config, json)
    names = configured_clusters(session, name)
    blocks = list(notify or [])
    if not dry_run:
        blocks += made_blocks(webhook, mailto)
    steps = apply_alerts(names, session.config.alerts, file, blocks, dry_run=dry_run)
    session.show(
        {"clusters": names, "dry_run": dry_run, "steps": steps_as_dict(steps)},
        lambda console: show_steps(console, names, steps, dry_run),
    )
    return 0


def made_blocks(webhook: str | None, mailto: str | None) -> list[str]:
    """The names of the blocks made of URLs."""
    from deployments.alerts.notify import save_mail, save_webhook

    with server():
        return [*([save_webhook(webhook)] if webhook else []), *([save_mail(mailto)] if mailto else [])]


def apply_alerts(
    clusters: list[str],
    settings: AlertsConfig,
    file: Path | None = None,
    blocks: list[str] | None = None,
    *,
    dry_run: bool = False,
) -> dict[str, list[Any]]:
    """Apply the alerts of some clusters; the steps of each.

    Args:
        clusters: their names.
        settings: of pgproof.toml, for what is not said.
        file: of alerts.
        blocks: names of notification blocks.
        dry_run: plan, and do nothing.

    Raises:
        ConfigError: the file is wrong, or no block is named or there.
        AuthenticationFailed, TransientError: the server did not take them.
    """
    from deployments.alerts.applying import execute, plan_apply, read_ours, without_clock
    from deployments.alerts.automations import automations_of
    from deployments.alerts.notify import find_blocks
    from deployments.alerts.template import read_alerts

    read = read_alerts(file or (settings.file.expanduser() if settings.file else None))
    chosen = blocks or list(settings.notify)
    if not chosen:
        raise ConfigError(
            "no notification block is named",
            "Nobody would be told.",
            "--notify slack-webhook/oncall, --webhook URL, --mailto URL, or notify in section [alerts] of pgproof.toml",
        )
    with server() as client:
        found = find_blocks(client, list(dict.fromkeys(chosen)))
        steps = {}
        for cluster in clusters:
            ours = read_ours(client, cluster)
            unset = without_clock(client, ours, datetime.now(UTC))
            steps[cluster] = plan_apply(automations_of(cluster, read.templates, found), ours, unset)
        if not dry_run:
            execute(client, [step for some in steps.values() for step in some])
    return steps


def steps_as_dict(steps: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The steps as ``--json`` shows them."""
    return [
        {"cluster": cluster, "automation": step.name, "what": step.what, "paused": step.paused}
        for cluster, some in steps.items()
        for step in some
    ]


def show_steps(console: Console, clusters: list[str], steps: dict[str, list[Any]], dry_run: bool) -> None:
    """What changed, a line each, and how many stay."""
    would = "would be " if dry_run else ""
    past = {"make": "made", "replace": "made anew", "remove": "removed"}
    for cluster in clusters:
        changed = [step for step in steps[cluster] if step.what != "keep"]
        for step in changed:
            off = step.wanted is not None and not (step.wanted.core.enabled or step.switched_on)
            console.print(
                f"{would}{past[step.what]}: {step.name}" + (", off until it is switched on" if off else ""),
                soft_wrap=True,
            )
        for step in steps[cluster]:
            if step.paused:
                console.print(f"paused, and stays so: {step.name}")
        kept = len(steps[cluster]) - len(changed)
        console.print(
            f"cluster {cluster}: {counted(len(changed), 'automation')} changed, {kept} as they should be"
        )
    if not dry_run:
        console.print(f"see whether it arrives:\n  pgproof alerts test {clusters[0]}")


@alerts.command("list")
def list_(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The cluster; default: all that have alerts.")] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Show the alerts on the Prefect server: whom they tell, and when they last did."""
    from deployments.alerts.listing import COLUMNS, listed

    session = _session(context, config, json)
    with server() as client:
        found = listed(client, name)
    session.show(
        {"alerts": [one.as_dict() for one in found]},
        lambda console: console.print(
            table("", COLUMNS, [one.row for one in found]) if found else _nothing(name)
        ),
    )
    return 0


def _nothing(name: str | None) -> str:
    return f"no alert is set up{f' for cluster {name}' if name else ''}:\n  pgproof alerts apply {name or ''}".rstrip()


@alerts.command()
def test(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The cluster, as pgproof.toml names it.")],
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Send a test message on the way that an alert takes, and say whether it was sent."""
    from deployments.alerts.trial import send_test

    session = _session(context, config, json)
    with server() as client:
        sent = send_test(client, session.cluster(name).name)
    session.show(
        {"cluster": name, "sent": list(sent)},
        lambda console: console.print(
            f"a test message was sent by {', '.join(sent)}; see whether it arrived"
        ),
    )
    return 0


@alerts.command()
def remove(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="The cluster, which may be gone from pgproof.toml.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Those of every cluster.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Remove the alerts that pgproof made; automations of your own stay."""
    from deployments.alerts.applying import read_ours

    if (name is None) == (not all_):
        raise ConfigError("alerts of which cluster", hint="pgproof alerts remove NAME, or --all")
    session = _session(context, config, json)
    with server() as client:
        ours = read_ours(client, name)
        for automation in ours:
            client.delete_automation(automation.id)
    session.show(
        {"removed": [one.name for one in ours]},
        lambda console: console.print(f"{counted(len(ours), 'automation')} removed"),
    )
    return 0
