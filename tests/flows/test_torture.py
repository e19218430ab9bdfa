"""One hostile text as every name and value that a database, a record or a person gives us, through every page.

What a terminal obeys is written out, what is markup in a page is text there, no line and no column is forged, and no
command ends because of it. A command that is not in ``WALKED`` fails the first test.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from markdown_it import MarkdownIt
from psycopg import sql

from deployments.alerts.listing import COLUMNS, Listed
from deployments.gone import Gone
from deployments.queues import IdleQueue
from deployments.report import show_report
from flows.protect import Protection, protect
from flows.report import report
from flows.writer import ensure_limit
from pgproof.commands.application import application
from pgproof.commands.console import Console, table
from pgproof.commands.drill import show
from pgproof.commands.plugins import add_plugins
from pgproof.retention.hold import add_hold
from tests.drills.damage import answer
from tests.flows.runs import Run, run
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source

TEXT = "[/b]\x1b[31mx\\|y<img src=//e/>\nPROVEN![a](//e)\u202e"  # 60 bytes: PostgreSQL cuts a name at 63
BYTES = TEXT[:-1].encode() + b"\xe9"  # of a role: in no encoding
SHOWN = "[/b]\\u001b[31mx\\|y<img src=//e/>"
OBEYED = re.compile("[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")

# Every command, and how it meets the text; {label} and {to} are of the fixture
WALKED: dict[str, list[list[str]]] = {
    "init": [["init", "two", "--dsn", "{admin}", "--repository", "file://{to}/r"]],
    "doctor": [["doctor", "main"]],
    "fleet": [["fleet"]],
    "backup": [["backup", "main"]],
    "list": [["list", "main"], ["list", TEXT]],
    "verify": [["verify", "main"], ["verify", "main", "--backup", TEXT]],
    "restore": [
        ["restore", "main", "--to", "{to}/a", "--dry-run"],
        ["restore", "main", "--to", f"{{to}}/{TEXT}"],
        ["restore", "main", "--to", "{to}/a", "--target-name", TEXT],
        ["restore", "main", "--to", "{to}/c"],
    ],
    "start": [["start", f"{{to}}/{TEXT}"], ["start", "{to}/c"]],
    "accept": [["accept", "{to}/c", "--dry-run"], ["accept", f"{{to}}/{TEXT}"]],
    "stop": [["stop", "{to}/c"], ["stop", f"{{to}}/{TEXT}"]],
    "drill": [["drill", "main", "--backup", TEXT], ["drill", "main"]],
    "objectives": [["objectives", "main"]],
    "expectations": [["expectations", "main", "--table", TEXT], ["expectations", "main"]],
    "expire": [["expire", "main", "--dry-run"], ["expire", "main"]],
    "hold": [["hold", "main", "{label}", "--reason", TEXT, "--replace"], ["hold", "main", TEXT]],
    "wal check": [["wal", "check", "main", "--content"], ["wal", "check", "main", "--repair"]],
    "wal push": [["wal", "push", TEXT]],
    "wal fetch": [["wal", "fetch", TEXT, TEXT]],
    "wal receive": [["wal", "receive", "main", "--slot", TEXT]],
    "protect": [["protect", TEXT]],  # its report and its artifacts are below
    "deploy": [["deploy", TEXT]],  # its report is below
    "alerts apply": [["alerts", "apply", TEXT]],
    "alerts list": [],  # its table is below
    "alerts test": [],  # sends to the blocks that Prefect has, and names them as the list does
    "alerts remove": [],  # says a number
    "up": [],  # says its port and the names of clusters, which are lower-case letters and digits
    "demo": [],  # likewise
}
CODES = {0, 1, 2, 10, *range(20, 60), *range(75, 100), *range(128, 256)} - {70, 198}


def commands(group: typer.Typer, prefix: str = "") -> Iterator[str]:
    for command in group.registered_commands:
        callback = command.callback
        yield prefix + (command.name or callback.__name__.replace("_", "-"))  # type: ignore[union-attr]
    for one in group.registered_groups:
        assert one.typer_instance is not None
        yield from commands(one.typer_instance, f"{prefix}{one.name} ")


def test_every_command_is_walked() -> None:
    add_plugins(application, ["--help"])
    assert set(commands(application)) == set(WALKED)


def quoted(text: str) -> str:
    return sql.Identifier(text).as_string(None)


@pytest.fixture(scope="module")
def tortured(prefect: Path) -> Iterator[Source]:
    """A source where the text is the name of everything, with a protected backup that is held because of it."""
    with running_source(17) as source:
        name, value = quoted(TEXT), sql.Literal(TEXT).as_string(None)
        shelf = source.root / TEXT.replace("/", "-")
        shelf.mkdir()
        give_to_server(shelf)
        source.sql(f"CREATE TABLESPACE {name} LOCATION {sql.Literal(str(shelf)).as_string(None)}")
        source.sql(f"CREATE ROLE {name}")
        source.sql("CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        with psycopg.connect(source.dsn("old"), autocommit=True, client_encoding="LATIN1") as connection:
            connection.execute(b'CREATE ROLE "' + BYTES + b'"')
        source.sql(f"CREATE DATABASE {name}")
        with psycopg.connect(source.server.dsn, user="postgres", dbname=TEXT, autocommit=True) as connection:
            for statement in (
                f"CREATE SCHEMA {name}",
                f"CREATE TABLE {name}.{name} TABLESPACE {name} AS SELECT {value}::text AS {name}, 1 AS id",
                f"ALTER TABLE {name}.{name} OWNER TO {name}",
                f"CREATE UNLOGGED TABLE {name}.u AS SELECT {value}::text AS {name}",
                f"COMMENT ON TABLE {name}.{name} IS {value}",
                f"CREATE SEQUENCE {name}.s",
            ):
                connection.execute(statement.encode())
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
        expected = f"{{database = {json.dumps(TEXT)}, query = {json.dumps(f'SELECT id, {name} FROM {name}.{name}')}, "
        expected += 'type = "expect_column_values_to_be_in_set", '
        expected += f"kwargs = {{column = {json.dumps(TEXT)}, value_set = [{json.dumps(TEXT)}]}}}}"
        source.write_config(f"expectations = [{expected}]")
        yield source


@pytest.fixture(scope="module")
def protected(tortured: Source) -> Run:
    ensure_limit("main")
    done = run(protect, "main", str(tortured.config_path))
    assert done.state.is_completed(), done.message
    add_hold(tortured.archive, protection(done).taken.record.label, TEXT, None, now=datetime.now(UTC))
    return done


def protection(done: Run) -> Protection:
    found: Protection = done.state.result()
    return found


def assert_harmless(text: str) -> None:
    assert not (found := OBEYED.search(text)), text[max(0, found.start() - 200) : found.end() + 20]
    for line in text.splitlines():
        assert not line.startswith("PROVEN!"), text


@pytest.mark.parametrize("command", [name for name, lines in WALKED.items() if lines])
def test_a_command(
    tortured: Source, protected: Run, tmp_path_factory: pytest.TempPathFactory, command: str
) -> None:
    to = tortured.root / "to"
    to.mkdir(exist_ok=True)
    values = {
        "{label}": protection(protected).taken.record.label,
        "{to}": str(to),
        "{admin}": tortured.dsn(),
    }
    for words in WALKED[command]:
        filled = words
        for key, value in values.items():
            filled = [word.replace(key, value) for word in filled]
        for more in ([], ["--json"]) if command != "stop" and not command.startswith("wal f") else ([],):
            if more and command in ("wal push", "start", "backup", "restore", "init"):
                continue
            code, out, error = answer(tortured, *filled, *more)
            assert (code in CODES, "Traceback" in error) == (True, False), (filled, code, error)
            assert_harmless(out + error)
            if more and out:
                json.loads(out)


def test_what_pages_show(tortured: Source, protected: Run) -> None:
    for words in (["list", "main"], ["expire", "main", "--dry-run"]):
        _, out, error = answer(tortured, *words)
        assert SHOWN[:12] in out, out + error  # a table folds what is long


@contextmanager
def printed() -> Iterator[tuple[Console, io.StringIO]]:
    file = io.StringIO()
    yield Console(file=file, width=4000), file
    assert_harmless(file.getvalue())
    assert SHOWN in file.getvalue()


def test_reports(tortured: Source, protected: Run) -> None:
    with printed() as (console, file):
        report(console, tortured.cluster, TEXT, protection(protected))
    assert SHOWN in file.getvalue()
    with printed() as (console, _):
        show(console, protection(protected).stored.proof, TEXT)
    content: dict[str, Any] = {
        "new": [], "changed": {TEXT: [TEXT]}, "deployments": [TEXT], "clusters": [TEXT], "work_pool": TEXT,
        "server": TEXT, "notes": [TEXT], "gone": [TEXT], "removed": False, "worker": TEXT,
    }  # fmt: skip
    with printed() as (console, _):
        show_report(console, content, [Gone(*[TEXT] * len(Gone.__match_args__))], [], {TEXT: 1})
    assert IdleQueue.__match_args__
    one = Listed(TEXT, TEXT, TEXT, TEXT, (TEXT,), TEXT, TEXT, TEXT)
    with printed() as (console, _):
        console.print(table(TEXT, COLUMNS, [one.row]))


def test_artifacts(protected: Run) -> None:
    """Every artifact of the chain, as a parser of Markdown reads it."""
    assert any("PROVEN!" in str(one["data"]) for one in protected.artifacts.values())
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for key, artifact in protected.artifacts.items():
        for markdown in (str(artifact["data"] or ""), str(artifact["description"] or "")):
            page = parser.render(markdown)
            assert not OBEYED.search(markdown), key
            assert set(re.findall(r'<img[^>]*src="([^:"]*)', page)) <= {"data"}, page
            assert not re.findall(r"<a\b|<script|<(?:strong|em)>[^<]*PROVEN!", page), page
            for found in re.findall(r"<table>.*?</table>", page, re.DOTALL):
                widths = {
                    len(re.findall(r"<t[hd]\b", row)) for row in re.findall(r"<tr>.*?</tr>", found, re.DOTALL)
                }
                assert len(widths) == 1, found


def test_logs(protected: Run) -> None:
    assert_harmless(protected.logs())
    assert_harmless(protected.message)


def test_a_record_of_somebody_else(tortured: Source, protected: Run) -> None:
    """The text in a record without a seal, where nothing else checks it."""
    label = protection(protected).taken.record.label
    path = tortured.repository_path / tortured.archive.layout.backup_record(label)
    whole = path.read_bytes()
    try:
        for tree in (
            {"label": TEXT},
            {TEXT: TEXT},
            [TEXT],
            {**json.loads(whole), "cluster": TEXT, "warnings": [TEXT]},
        ):
            if isinstance(tree, dict):
                tree.pop("record_sha256", None)
            os.chmod(path, 0o600)
            path.write_text(json.dumps(tree))
            for words in (
                ["list", "main"],
                ["verify", "main"],
                ["restore", "main", "--to", "/x", "--dry-run"],
            ):
                for more in ([], ["--json"]):
                    code, out, error = answer(tortured, *words, *more)
                    assert (code != 70, "Traceback" in error) == (True, False), error
                    assert_harmless(out + error)
    finally:
        path.write_bytes(whole)
