"""pgproof.toml as init writes it: sections are added, nothing is rewritten."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from pgproof.commands import config_file
from pgproof.commands.config_file import Wanted, plan_addition
from pgproof.config import BackupConfig, DrillConfig, RetentionConfig, TargetsConfig, load, parse
from pgproof.errors import ConfigError

SHOP = Wanted("shop", "host=db user=pgproof dbname=postgres", None, "file:///var/lib/pgproof")
CRM = Wanted("crm", "host=crm user=pgproof dbname=postgres", "env:CRM", "file:///var/lib/pgproof/")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pgproof.toml"


def add(path: Path, wanted: Wanted, system_identifier: int = 7) -> None:
    plan_addition(path, wanted).write(system_identifier)


def test_a_new_file(path: Path) -> None:
    add(path, SHOP)
    assert path.stat().st_mode & 0o7777 == 0o600
    config = load(path)
    assert list(config.repositories) == ["main"]
    shop = config.cluster("shop")
    assert (shop.dsn, shop.repository, shop.system_identifier) == (SHOP.dsn, "main", 7)
    assert os.listdir(path.parent) == ["pgproof.toml"]


def test_what_is_commented_out_is_the_default(path: Path) -> None:
    add(path, SHOP)
    text = re.sub(r"(?m)^# (\[clusters|[a-z_]+ = )", r"\1", path.read_text())
    text = re.sub(r"(?m)^(age_|password|scratch_directory).*\n", "", text)  # examples
    tree = tomllib.loads(text)["clusters"]["shop"]
    shop = parse(tomllib.loads(text), path).cluster("shop")
    assert shop.retention == RetentionConfig()
    assert shop.targets == TargetsConfig()
    assert shop.backup == BackupConfig()
    assert shop.drill == DrillConfig()
    for section in ("retention", "targets", "backup"):
        assert set(tree[section]) == set(type(getattr(shop, section)).model_fields), "every key is shown"


def test_what_is_there_stays_byte_for_byte(path: Path) -> None:
    before = b"# mine\r\n[repositories.main]\r\nurl   = 'file:///var/lib/pgproof'  # here\r\n[clusters]"
    path.write_bytes(before)
    path.chmod(0o640)
    add(path, CRM)
    assert (
        path.read_bytes()
        == before
        + (
            b"\n\n[clusters.crm]\n"
            b'dsn = "host=crm user=pgproof dbname=postgres"\n'
            b'password = "env:CRM"\n'
            b'repository = "main"\n'
            b"system_identifier = 7\n"
        )
        + config_file._CLUSTER.replace("NAME.", "crm.").encode()
    )
    assert path.stat().st_mode & 0o7777 == 0o640
    assert list(load(path).repositories) == ["main"], "the section with this URL was used again"


@pytest.mark.parametrize(
    ("present", "name"), [([], "main"), (["main"], "crm"), (["main", "crm"], "crm-2")], ids=str
)
def test_a_repository_section_gets_a_free_name(path: Path, present: list[str], name: str) -> None:
    path.write_text("".join(f'[repositories.{other}]\nurl = "file:///{other}"\n' for other in present))
    assert plan_addition(path, CRM).repository == name


def test_an_endpoint_is_part_of_the_place(path: Path) -> None:
    add(path, Wanted("a", "", None, "s3://b/p", "https://one", "eu-1"))
    same = Wanted("b", "", None, "s3://b/p")
    other = Wanted("b", "", None, "s3://b/p", "https://two")
    assert plan_addition(path, same).repository == "main"
    assert plan_addition(path, other).repository == "b"
    assert load(path).repositories["main"].endpoint == "https://one"


def test_values_are_quoted(path: Path) -> None:
    dsn = "host='/tmp/a \"b\\\\' user=ö\x7f"
    add(path, Wanted("shop", dsn, None, "file:///a%20b"))
    assert load(path).cluster("shop").dsn == dsn


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("[clusters", 'configuration "{path}" is not valid TOML'),
        ("colour = 1", 'configuration "{path}" has wrong values'),
        (
            '[repositories.main]\nurl = "file:///a"\n[clusters.shop]\ndsn = ""\n',
            'cluster "shop" is configured already',
        ),
    ],
)
def test_a_file_that_cannot_take_it_stays(path: Path, text: str, fact: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        plan_addition(path, SHOP)
    assert caught.value.fact == fact.format(path=path)
    assert path.read_text() == text


def test_inline_tables_are_refused(path: Path) -> None:
    path.write_text("clusters = {}\n")
    with pytest.raises(ConfigError) as caught:
        plan_addition(path, SHOP).config(path)
    assert caught.value.fact == f'cannot add cluster "shop" to configuration "{path}"'
    assert (
        caught.value.hint == "write [repositories.NAME] and [clusters.NAME] as sections, not as inline tables"
    )


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "pgproof.toml"
    with pytest.raises(ConfigError) as caught:
        plan_addition(path, SHOP)
    assert str(caught.value) == (
        f'cannot write configuration "{path}"\n'
        f"DETAIL: There is no directory {path.parent}.\n"
        f"HINT: mkdir -p {path.parent}"
    )


def test_a_file_that_changed_meanwhile_stays(path: Path) -> None:
    addition = plan_addition(path, SHOP)
    path.write_text("# somebody else was quicker\n")
    with pytest.raises(ConfigError, match="changed meanwhile"):
        addition.write(7)
    assert path.read_text() == "# somebody else was quicker\n"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path.write_text("# old\n")
    addition = plan_addition(path, SHOP)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(ConfigError) as caught:
        addition.write(7)
    assert str(caught.value) == f'cannot write configuration "{path}"\nDETAIL: No space left on device.'
    assert path.read_text() == "# old\n"
    assert os.listdir(path.parent) == ["pgproof.toml"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "real.toml", tmp_path / "pgproof.toml"
    target.write_text("# old\n")
    link.symlink_to(target)
    add(link, SHOP)
    assert link.is_symlink()
    assert load(target).cluster("shop").system_identifier == 7
