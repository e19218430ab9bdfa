"""What the server leaves out of a base backup: data fails it, configuration is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.backups.skipped import check_skipped
from pgproof.errors import BackupFailed
from pgproof.postgres.notices import Notice
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source


@pytest.fixture(scope="module")
def linked() -> Iterator[Source]:
    """A source whose postgresql.conf and conf.d are links, with a database and a tablespace of its own."""
    with running_source(15) as source:
        elsewhere = source.root / "elsewhere"
        (elsewhere / "conf.d").mkdir(parents=True)
        give_to_server(elsewhere)
        (source.data / "postgresql.conf").rename(elsewhere / "postgresql.conf")
        for name in ("postgresql.conf", "conf.d"):
            (source.data / name).symlink_to(elsewhere / name)
        source.sql("CREATE DATABASE shop")
        shelf = source.root / "shelf"
        shelf.mkdir()
        give_to_server(shelf)
        source.sql(f"CREATE TABLESPACE shelf LOCATION '{shelf}'")
        source.sql("CREATE TABLE t TABLESPACE shelf AS SELECT 1 AS a")
        yield source


def move_away(source: Source, path: Path) -> None:
    """As somebody moves a directory or file to another disk."""
    target = source.root / "elsewhere" / path.name
    with source.away():
        shutil.move(path, target)
        path.symlink_to(target)


def bring_back(path: Path) -> None:
    target = os.readlink(path)
    path.unlink()
    shutil.move(target, path)


def test_configuration_is_named(linked: Source) -> None:
    code, out, _ = answer(linked, "backup", "main", "--json")
    taken = json.loads(out)
    assert (code, taken["skipped"]) == (0, ["conf.d", "postgresql.conf"])
    (said,) = taken["warnings"]
    assert said.startswith("conf.d of the data directory is not in it: symbolic links or special")
    assert [Path(path).name for path in taken["configuration"]["files"]] == [
        "pg_hba.conf",
        "pg_ident.conf",
        "postgresql.conf",  # linked, and included by nothing that was left out
    ]
    code, out, _ = answer(linked, "list", "main")
    assert f"{taken['label']}: {said}" in " ".join(out.split())
    code, out, _ = answer(linked, "restore", "main", "--to", str(linked.root / "new"), "--dry-run", "--json")
    assert code == 43  # the tablespace is there
    words = ["--tablespace", f"{linked.root}/shelf={linked.root}/other"]
    code, out, _ = answer(
        linked, "restore", "main", "--to", str(linked.root / "new"), "--dry-run", "--json", *words
    )
    assert f"backup {taken['label']}: {said}" in json.loads(out)["warnings"]


@pytest.mark.parametrize("what", ["database", "relation", "relation of a tablespace"])
def test_data_fails(linked: Source, what: str) -> None:
    if what == "database":
        path = Path("base", str(linked.sql("SELECT oid FROM pg_database WHERE datname = 'shop'")[0][0]))
    elif what == "relation":
        path = Path(linked.sql("SELECT pg_relation_filepath('pg_statistic')")[0][0])
    else:
        path = Path(linked.sql("SELECT pg_relation_filepath('t')")[0][0])
    before = len(json.loads(answer(linked, "list", "main", "--json")[1])["backups"])
    move_away(linked, linked.data / path)
    try:
        with pytest.raises(BackupFailed) as caught:
            linked.backup()
    finally:
        with linked.away():
            bring_back(linked.data / path)
    named = (
        str(path) if what != "relation of a tablespace" else f"{linked.root}/shelf/{Path(*path.parts[2:])}"
    )
    assert caught.value.fact == 'cluster "main" has data that no base backup holds'
    assert f"The server left out {named}" in caught.value.detail
    assert f"cp -aL {named} {named}.new && rm {named} && mv {named}.new {named}" in caught.value.hint
    assert len(json.loads(answer(linked, "list", "main", "--json")[1])["backups"]) == before


def test_hint_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "PG_VERSION").write_text("15")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "1 6").symlink_to(tmp_path / "there")
    with pytest.raises(BackupFailed) as caught:
        check_skipped("shop", [Notice('skipping special file "./base/1 6"', "sendDir")])
    command = caught.value.hint.split(": ")[1].split(";")[0]
    assert os.system(f"cd '{tmp_path}' && {command}") == 0
    assert (tmp_path / "base" / "1 6" / "PG_VERSION").is_file()
    assert not (tmp_path / "base" / "1 6").is_symlink()


@pytest.mark.parametrize(
    ("text", "function", "path"),
    [
        ('skipping special file "./conf.d"', "sendDir", "conf.d"),
        ("überspringe besondere Datei »./base/16393«", "sendDir", "base/16393"),
        ("fichier spécial « ./base/16 393 » ignoré", "sendDir", "base/16 393"),
        ('символическая ссылка "pg_tblspc/16400"', "do_pg_backup_start", "pg_tblspc/16400"),
        ('skipping special file "/x/PG_15_202209061/5/1"', "sendDir", "/x/PG_15_202209061/5/1"),
        ("words without a path", "sendDir", "words without a path"),
        ('checksum verification failed in file "./base/5/1", block 1', "sendFile", ""),
    ],
)
def test_paths_of_notices(text: str, function: str, path: str) -> None:
    assert Notice(text, function).left_out == path
