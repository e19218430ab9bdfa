"""Every ``pgproof ...`` of the documentation is a command that exists, with options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

from pgproof.commands.application import application
from pgproof.commands.plugins import add_plugin
from tests.docs.pages import PAGES, PROJECT, blocks, headings, inline_code, table_under, tables, title

README = PROJECT / "README.md"
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@cache
def program() -> Any:
    """The whole command, with those of the higher layers."""
    for point in entry_points(group="pgproof.commands"):
        add_plugin(application, point.name, point.load())
    return typer.main.get_command(application)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words after its name."""
    command, rest = program(), list(words)
    while hasattr(command, "commands"):
        while rest[:1] == ["--config"]:
            del rest[:2]
        if rest == ["--version"]:
            break
        assert rest, "no command is named"
        assert rest[0] in command.commands, f'there is no command "{rest[0]}"'
        command = command.commands[rest.pop(0)]
    return command, rest


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command line in a page's blocks of shell, without comments, ``sudo`` and assignments."""
    for block in blocks(page):
        if block.language != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if "pgproof" not in line or line.lstrip().startswith("#"):
                continue
            words = shlex.split(line, comments=True)
            while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] in ("sudo", "export")):
                words.pop(0)
            if words and Path(words[0]).name == "pgproof":
                yield words[1:]


LINES = [(title(page), shlex.join(words)) for page in PAGES for words in command_lines(page)]
INLINE = sorted(
    {
        (title(page), code)
        for page in PAGES
        for code in inline_code(page)
        if re.match(r"pgproof( |$)", code) and "COMMAND" not in code
    }
)


def test_there_is_something_to_check() -> None:
    pages = {page for page, _ in LINES}
    assert {"README.md", "docs/runbooks/lost-server.md", "docs/runbooks/wal-gap.md"} <= pages
    assert len(LINES) > 40
    assert INLINE


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda value: value)
def test_a_command_line_can_be_run_as_it_stands(page: str, line: str) -> None:
    command, rest = find_command(shlex.split(line))
    context = command.make_context("pgproof", rest)  # raises Typer's usage error
    assert context.args == []


@pytest.mark.parametrize(("page", "code"), INLINE, ids=lambda value: value)
def test_a_command_in_a_sentence_exists(page: str, code: str) -> None:
    words = shlex.split(code)[1:]
    if not words:
        return
    command, rest = find_command(words)
    named = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert named <= options_of(command)


@pytest.mark.parametrize(
    "line", ["nosuch shop", "restore shop", "restore shop --to /x --nosuch", "wal check", "list shop more"]
)
def test_lines_that_are_refused_bad(line: str) -> None:
    with pytest.raises(Exception) as caught:  # Typer keeps the class of its usage errors to itself
        test_a_command_line_can_be_run_as_it_stands("", line)
    assert isinstance(caught.value, AssertionError) or hasattr(caught.value, "show")


def test_a_client_of_a_restored_cluster_says_the_port() -> None:
    """PGPORT of the shell would lead elsewhere: the socket of a restored cluster has the usual number."""
    clients = [
        line
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for line in block.text.replace("\\\n", " ").splitlines()
        if re.match(r"\s*(psql|pg_dump) .*(-h|--host)", line)
    ]
    assert len(clients) > 3
    assert [line for line in clients if not re.search(r"-p 5432|--port=5432", line)] == []


def test_the_table_of_commands_is_complete() -> None:
    shown = {
        re.match(r"`pgproof ((?:wal |alerts )?\w+)", row[0])[1] for row in table_under(README, "Commands")
    }  # type: ignore[index]
    assert shown == set(leaves())


def leaves() -> dict[str, Any]:
    """Every command by its whole name, such as ``wal push``."""
    found = {}
    for name, command in program().commands.items():
        group = getattr(command, "commands", None)
        found |= {name: command} if group is None else {f"{name} {one}": group[one] for one in group}
    return found


def test_options_named_in_a_table_of_the_readme_exist() -> None:
    known = {name for command in leaves().values() for name in options_of(command)}
    cells = [cell for _, _, rows in tables(README) for row in rows for cell in row]
    named = {word for cell in cells for word in re.findall(r"`(--[a-z-]+)", cell)}
    assert named
    assert named <= known


def test_every_option_is_named_somewhere() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    missing = {
        f"{name} {option}"
        for name, command in leaves().items()
        for option in options_of(command)
        if option.startswith("--") and option != "--help" and not re.search(rf"{option}(?![\w-])", text)
    }
    assert not missing


def test_every_schedule_of_prefect_yaml_is_in_the_readme() -> None:
    import yaml

    tree = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
    shown = [(row[0].strip("`"), row[1].strip("`")) for row in table_under(README, "Schedule it in Prefect")]
    found = []
    for deployment in tree["deployments"]:
        if (
            "PGPROOF_CLUSTER" not in deployment["name"]
        ):  # once for all clusters: nothing in pgproof.toml sets it
            continue
        flow = deployment["entrypoint"].split(":")[1].replace("_", "-")
        slugs = [schedule["slug"].replace("-", "_") for schedule in deployment.get("schedules", [])]
        found += [(flow, slug) for slug in slugs] or [(flow, "by hand")]
    assert shown == [(flow, "wal.receive" if slug == "wal_receive" else slug) for flow, slug in found]


def test_the_readme_opens_with_restoring() -> None:
    assert headings(README)[:2] == ["pgproof", "Restoring"]
    assert [words[0] for words in command_lines(README)][:3] == ["list", "restore", "restore"]
    assert README.read_text().count("<!-- demo-output -->") in (0, 1)
