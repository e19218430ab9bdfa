"""The reference of pgproof.toml is what pgproof/config.py reads: names, defaults, units."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from pgproof import config, quantity, secret
from pgproof.config import parse
from pgproof.section import Section
from tests.docs.pages import PAGES, PROJECT, blocks, headings, table_under, title

PAGE = PROJECT / "docs" / "configuration.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "pgproof.toml": config.Config,
    "[alerts]": config.AlertsConfig,
    "[repositories.NAME]": config.RepositoryConfig,
    "[clusters.NAME]": config.ClusterConfig,
    "[clusters.NAME.wal]": config.WalConfig,
    "[clusters.NAME.backup]": config.BackupConfig,
    "[clusters.NAME.retention]": config.RetentionConfig,
    "[clusters.NAME.targets]": config.TargetsConfig,
    "[clusters.NAME.drill]": config.DrillConfig,
    "[[clusters.NAME.checks]]": config.SqlCheckConfig,
    "[clusters.NAME.schedules]": config.SchedulesConfig,
    "[clusters.NAME.pgbackrest]": config.PgBackRestConfig,
    "[clusters.NAME.barman]": config.BarmanConfig,
    "[clusters.NAME.directory]": config.DirectoryConfig,
    "[[clusters.NAME.expectations]]": config.ExpectationConfig,
}
# Filled in by the reader: where the file is, and the name of the section
NOT_KEYS = {("pgproof.toml", "path"), ("[clusters.NAME]", "name")}
REQUIRED = {
    "[clusters.NAME.pgbackrest]": {"name": "x"},
    "[clusters.NAME.barman]": {"server": "x"},
    "[clusters.NAME.directory]": {"backups": "/x", "wal": "/y"},
    "[repositories.NAME]": {"url": "memory://x"},
    "[clusters.NAME]": {"dsn": "x"},
    "[[clusters.NAME.checks]]": {"name": "x", "database": "x", "sql": "x"},
    "[[clusters.NAME.expectations]]": {"database": "x", "type": "x", "table": "x"},
}
UNITS = {quantity.duration: "duration", quantity.size: "size", secret.reference: "reference"}


def keys(section: str) -> dict[str, FieldInfo]:
    """The keys of a section that are values; those that are sections themselves have a table of their own."""
    model = SECTIONS[section]
    found = {}
    for name, field in model.model_fields.items():
        nested = any(f"{section.strip('[]')}.{name}" == other.strip("[]") for other in SECTIONS)
        nested |= section == "pgproof.toml" and name in ("alerts", "repositories", "clusters")
        if not nested and (section, name) not in NOT_KEYS:
            found[name] = field
    return found


def shown(section: str) -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in table_under(PAGE, section)}


def test_every_section_has_a_table() -> None:
    models = {
        value
        for value in vars(config).values()
        if isinstance(value, type) and issubclass(value, Section) and value is not Section
    }
    assert set(SECTIONS.values()) == models
    assert [heading for heading in headings(PAGE) if heading in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_shown_and_no_other(section: str) -> None:
    assert list(shown(section)) == list(keys(section))


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for section in SECTIONS for key in keys(section)],
    ids=lambda value: value,
)
def test_default_and_unit(section: str, key: str) -> None:
    default, unit, meaning = shown(section)[key]
    field = keys(section)[key]
    assert meaning
    if field.is_required():
        assert default == "required"
    elif field.get_default(call_default_factory=True) is None:
        assert default == "none"
    else:
        value = tomllib.loads(f"x = {default.strip('`')}")["x"]
        read = SECTIONS[section].model_validate({**REQUIRED.get(section, {}), key: value})
        assert getattr(read, key) == field.get_default(call_default_factory=True)
    assert wanted_unit(field) in (None, unit)


def wanted_unit(field: FieldInfo) -> str | None:
    """The word that the table must use, for values that are read by a function of our own."""
    metadata: list[Any] = list(field.metadata)
    for part in getattr(field.annotation, "__args__", ()):
        metadata += getattr(part, "__metadata__", ())
    for item in metadata:
        if isinstance(item, BeforeValidator) and item.func in UNITS:
            return UNITS[item.func]
    return None


def test_units_are_looked_for() -> None:
    assert wanted_unit(keys("[clusters.NAME.targets]")["rpo"]) == "duration"
    assert wanted_unit(keys("[clusters.NAME.backup]")["volume_size"]) == "size"
    assert wanted_unit(keys("[clusters.NAME]")["password"]) == "reference"


EXAMPLES = [(title(page), block.text) for page in PAGES for block in blocks(page) if block.language == "toml"]


@pytest.mark.parametrize(("page", "text"), EXAMPLES, ids=lambda value: value.split("\n")[0])
def test_examples_of_pgproof_toml_can_be_read(page: str, text: str) -> None:
    assert parse(tomllib.loads(text), Path("/etc/pgproof/pgproof.toml")).clusters
