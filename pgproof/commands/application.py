"""The command line: options read with Typer; each command's work is a function of its own module."""

from __future__ import annotations

import io
import sys
import traceback
from functools import cache
from typing import Annotated, Any

import typer

from pgproof import __version__
from pgproof.commands import restored_cluster
from pgproof.commands.console import show, show_any_name, write_error, write_json
from pgproof.commands.options import DEADLINE, DEFAULT_CONFIG, ConfigPath, Json, Name, start_session
from pgproof.commands.plugins import add_plugins
from pgproof.commands.wal_group import wal
from pgproof.errors import PgproofError, UsageError
from pgproof.quantity import parse_duration
from pgproof.visible import visible

application = typer.Typer(
    name="pgproof",
    help="PostgreSQL backup and disaster recovery that proves every backup by restoring it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
application.add_typer(wal, name="wal")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgproof {__version__}")
        raise typer.Exit


@application.callback()
def main_options(
    config: ConfigPath = None,
    deadline: Annotated[
        str | None,
        typer.Option(help='How long a command may take on an object store: "10min". Default: no limit.'),
    ] = None,
    version: Annotated[  # eager: answered before a command is asked for
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command."""
    DEFAULT_CONFIG[0] = config
    DEADLINE[0] = None if deadline is None else parse_duration(deadline)


@application.command()
def init(
    name: Name,
    dsn: Annotated[str, typer.Option("--dsn", help="How pgproof shall connect; without a password.")],
    repository: Annotated[str, typer.Option("--repository", help="file:///path, s3://bucket/prefix, ...")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Make the role, the grants and the settings.")
    ] = False,
    optional: Annotated[bool, typer.Option("--optional", help="Apply what is only advised, too.")] = False,
    admin_dsn: Annotated[str | None, typer.Option("--admin-dsn", help="A superuser, for --apply.")] = None,
    password: Annotated[str | None, typer.Option(help="By reference: env:NAME or file:/path.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Of an S3 store that is not AWS.")] = None,
    region: Annotated[str | None, typer.Option(help="Of an S3 store.")] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Look at a server, write pgproof.toml, and show (or apply) the settings and grants that are missing."""
    from pgproof.commands import init as init_command

    result = init_command.initialise(
        name,
        dsn,
        repository,
        config_path=config or DEFAULT_CONFIG[0],
        apply=apply,
        optional=optional,
        admin_dsn=admin_dsn,
        password=password,
        endpoint=endpoint,
        region=region,
    )
    show(result.as_dict(), lambda console: init_command.render(console, result), json)
    return result.exit_code


@application.command()
def doctor(name: Name, config: ConfigPath = None, json: Json = False) -> int:
    """Check what would prevent a backup, a restore or a proof today, and how to fix it."""
    from pgproof.commands import doctor as doctor_command

    session = start_session(config, json)
    checks = doctor_command.doctor(name, session.config)
    session.show(doctor_command.as_dict(checks), lambda console: doctor_command.render(console, checks))
    return doctor_command.exit_code(checks)


@application.command()
def fleet(
    names: Annotated[list[str] | None, typer.Argument(help="Default: every cluster.")] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """One row for each cluster: last proven, recovery window, RPO, RTO, gaps, and what it misses."""
    from pgproof.commands import fleet as fleet_command

    return fleet_command.fleet(start_session(config, json), names or [])


@application.command()
def backup(
    name: Name,
    incremental: Annotated[bool, typer.Option("--incremental", help="Build on the newest (17+).")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Take a base backup into the repository."""
    from pgproof.commands import backups

    return backups.backup(start_session(config, json), name, incremental)


@application.command("list")
def list_(name: Name, config: ConfigPath = None, json: Json = False) -> int:
    """Show every backup with its state: taken, complete, verified, proven or failed; since when and by what."""
    from pgproof.commands import backups

    return backups.list_backups(start_session(config, json), name)


@application.command()
def verify(
    name: Name,
    backup: Annotated[str | None, typer.Option("--backup", help="One backup; default: all.")] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Read every stored byte, compare with what the backup records name, and remember the outcome."""
    from pgproof.commands import backups

    return backups.verify(start_session(config, json), name, backup)


@application.command()
def restore(
    name: Name,
    to: Annotated[str, typer.Option("--to", help="Data directory to make; empty or absent.")],
    target_time: Annotated[str | None, typer.Option(help="With its zone: 2026-11-23 20:15:00+01:00.")] = None,
    target_lsn: Annotated[str | None, typer.Option()] = None,
    target_xid: Annotated[str | None, typer.Option()] = None,
    target_name: Annotated[str | None, typer.Option(help="A restore point.")] = None,
    target_immediate: Annotated[bool, typer.Option(help="As soon as the backup is consistent.")] = False,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="Stop just before the target.")] = False,
    target_timeline: Annotated[str | None, typer.Option(help="A number, or latest.")] = None,
    target_action: Annotated[str, typer.Option(help="pause, promote or shutdown.")] = "pause",
    backup: Annotated[
        str | None, typer.Option("--backup", help="Default: the newest proven one that fits.")
    ] = None,
    tablespace: Annotated[
        list[str] | None, typer.Option("--tablespace", help="OLD=NEW, as often as needed.")
    ] = None,
    standby: Annotated[bool, typer.Option("--standby", help="Keep following the archive.")] = False,
    take_over: Annotated[bool, typer.Option("--take-over", help="The restored cluster archives on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Restore a backup, and set up recovery to a target; everything is checked before the first write."""
    from pathlib import Path

    from pgproof.commands import restore as restore_command
    from pgproof.errors import InvalidTarget
    from pgproof.restore.plan import RestoreRequest
    from pgproof.restore.target import RecoveryTarget

    if target_action not in ("pause", "promote", "shutdown"):
        raise InvalidTarget(f'invalid target action "{target_action}"', hint="pause, promote or shutdown")
    session = start_session(config, json)
    target = RecoveryTarget.build(
        time=target_time,
        lsn=target_lsn,
        xid=target_xid,
        name=target_name,
        immediate=target_immediate,
        exclusive=exclusive,
        timeline=target_timeline,
    )
    if standby and target.kind != "end":
        raise InvalidTarget("a standby has no recovery target", hint="leave out --standby or the target")
    request = RestoreRequest(
        Path(to).absolute(),
        target,
        backup,
        restore_command.parse_tablespaces(tablespace or []),
        standby,
        target_action,
        take_over,
    )
    return restore_command.restore(session, name, request, dry_run)


restored_cluster.add(application)


@application.command()
def drill(
    name: Name,
    backup: Annotated[str | None, typer.Option("--backup", help="Default: the newest.")] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest backup.")] = False,
    origin: Annotated[
        str | None, typer.Option("--from", help="Another tool's backup: pgbackrest, barman or directory.")
    ] = None,
    targets: Annotated[
        int | None, typer.Option("--targets", min=0, max=50, help="Recovery targets tried before the cut.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of their choice; a proof has it.")
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Prove a backup: restore it, recover to the exact cut, compare every table with the source."""
    from pgproof.commands import drill as drill_command

    if backup and oldest:
        raise UsageError("--backup and --oldest name two backups", hint="leave out one of them")
    if origin is not None:
        from pgproof.commands import foreign_drill

        if targets is not None or seed is not None:
            raise UsageError("--targets and --seed do not go with --from", hint="leave them out")
        return foreign_drill.drill(start_session(config, json), name, origin, backup, oldest)
    return drill_command.drill(start_session(config, json), name, backup, oldest, targets, seed)


@application.command()
def objectives(name: Name, config: ConfigPath = None, json: Json = False) -> int:
    """RTO and RPO beside their targets: what the last drills took, what a restore would take and lose now."""
    from pgproof.commands import objectives as objectives_command

    return objectives_command.objectives(start_session(config, json), name)


@application.command()
def expectations(
    name: Name,
    write: Annotated[
        bool, typer.Option("--write", help="Write the suite; never over what you changed.")
    ] = False,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="database.schema.table, as often as needed.")
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Make the cluster's Great Expectations suite, or show how yours differs from what would be made now."""
    from pgproof.commands import expectations as expectations_command

    return expectations_command.expectations(start_session(config, json), name, table or [], write)


@application.command()
def expire(
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to a plan that removes more than usual.")] = False,
    old_system: Annotated[
        int | None,
        typer.Option(
            "--old-system", metavar="ID", help="Remove all of a system identifier from before an initdb."
        ),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Remove what newer proof has made unnecessary; every backup gets a verdict with its reasons."""
    from pgproof.commands import retention

    if old_system is not None:
        return retention.expire_old_system(start_session(config, json), name, old_system, dry_run, yes)
    return retention.run_expire(start_session(config, json), name, dry_run, yes)


@application.command()
def hold(
    name: Name,
    label: Annotated[str, typer.Argument(help="The backup.")],
    reason: Annotated[str | None, typer.Option("--reason")] = None,
    until: Annotated[str | None, typer.Option("--until", help="With its zone.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Let it go again.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="A hold that it has already.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Keep a backup whatever retention says."""
    from pgproof.commands import retention

    return retention.hold(start_session(config, json), name, label, reason, until, release, replace)


@cache  # Typer reads every function for it, in the time of twenty queries: once, where one process runs many
def _command(plugins: frozenset[str]) -> Any:
    return typer.main.get_command(application)


def run(words: list[str]) -> int:
    """Run a command line; every error of ours becomes its message and exit code."""
    as_json = "--json" in words
    show_any_name(sys.stdout)
    try:
        code = _command(add_plugins(application, words))(words, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except PgproofError as error:
        if as_json:
            write_json(error.as_dict())
        write_error(error)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("pgproof: interrupted\n")
        return 130
    except Exception as error:
        show = getattr(error, "show", None)  # Typer's usage errors, whose class it keeps to itself
        if show is None:
            sys.stderr.write(visible(traceback.format_exc()))
            sys.stderr.write(visible(f"pgproof: unexpected error: {error!r}\n"))
            return 70  # EX_SOFTWARE: 1 would read as a finding
        said = io.StringIO()
        show(said)
        sys.stderr.write(visible(said.getvalue()))
        return 2
