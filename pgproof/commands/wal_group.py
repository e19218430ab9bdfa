"""The command line of ``pgproof wal``: the archive of WAL, and what PostgreSQL calls for each file."""

from __future__ import annotations

from typing import Annotated

import typer

from pgproof.commands.options import DEFAULT_CONFIG, ConfigPath, Json, Name, start_session
from pgproof.errors import UsageError

wal = typer.Typer(help="The WAL archive.", no_args_is_help=True, rich_markup_mode=None)


@wal.command()
def check(
    name: Name,
    content: Annotated[
        bool, typer.Option("--content", help="Read the segments, too, all but those known to be good.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="With --content: also those known to be good.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring back what is missing or damaged, from wherever it is.")
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> int:
    """Look for gaps along every timeline, and show what can be recovered."""
    from pgproof.commands import repair as repair_command
    from pgproof.commands import wal as wal_command

    if everything and not content:
        raise UsageError("--all says which segments are read, and none is", hint="add --content")
    session = start_session(config, json)
    if repair:
        return repair_command.repair(session, name, content, everything, wal_command.show)
    return wal_command.check(session, name, content, everything)


@wal.command()
def push(
    path: Annotated[str, typer.Argument(help="A file of pg_wal, as PostgreSQL's %p.")],
    cluster: Annotated[str | None, typer.Option("--cluster")] = None,
    config: ConfigPath = None,
) -> int:
    """Archive one WAL file; this is archive_command."""
    return _wal_file(["push", path], cluster, config)


@wal.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name of the WAL file, as PostgreSQL's %f.")],
    path: Annotated[str, typer.Argument(help="Where to put it, as PostgreSQL's %p.")],
    cluster: Annotated[str | None, typer.Option("--cluster")] = None,
    own_tablespaces: Annotated[
        str | None, typer.Option(metavar="all|LSN", help="Keep what CREATE TABLESPACE makes in %p's cluster.")
    ] = None,
    planned: Annotated[
        str | None,
        typer.Option(metavar="FIRST-LAST,...", help="Segments that must be there: their lack is a fault."),
    ] = None,
    config: ConfigPath = None,
) -> int:
    """Fetch one WAL file; restore_command calls this. Exit code 97: not archived; over 128: any fault."""
    own = [f"--own-tablespaces={own_tablespaces}"] if own_tablespaces else []
    own += [f"--planned={planned}"] if planned else []
    return _wal_file(["fetch", *own, name, path], cluster, config)


@wal.command()
def receive(
    name: Name,
    slot: Annotated[str | None, typer.Option("--slot", help="Default: as pgproof.toml says.")] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Such as 24h; default: until stopped.")
    ] = None,
    synchronous: Annotated[
        bool, typer.Option("--synchronous", help="Confirm what is on this machine's disk.")
    ] = False,
    create_slot: Annotated[bool, typer.Option("--create-slot", help="Make the slot, and end.")] = False,
    drop_slot: Annotated[bool, typer.Option("--drop-slot", help="Remove the slot, and end.")] = False,
    config: ConfigPath = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """Stream WAL from a replication slot into the archive, for an RPO of seconds; a service."""
    from pgproof.commands import wal_receive

    if create_slot and drop_slot:
        raise UsageError("--create-slot and --drop-slot exclude each other", hint="leave out one of them")
    session = start_session(config, json)
    if create_slot or drop_slot:
        return wal_receive.change_slot(session, name, slot, make=create_slot)
    return wal_receive.receive(session, name, slot, for_, synchronous)


def _wal_file(words: list[str], cluster: str | None, config: str | None) -> int:
    from pgproof.commands.wal_files import main

    options = [f"--cluster={cluster}"] if cluster else []
    path = config or DEFAULT_CONFIG[0]
    code = main([*([f"--config={path}"] if path else []), *options, "wal", *words])
    return 2 if code is None else code
