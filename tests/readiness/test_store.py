"""What is found of a repository; the server is away, which stops none of these questions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyrage
import pytest

from pgproof.config import ClusterConfig, Config, RepositoryConfig
from pgproof.errors import RepositoryReadOnly
from pgproof.readiness.check import Subject
from pgproof.readiness.checks import Check, examine, stopped
from pgproof.readiness.store import QUESTIONS
from pgproof.repository.layout import Layout
from pgproof.repository.repository import Repository, create_repository
from pgproof.repository.store import Store

SYSTEM = 7
COPIES = {"main": "", "offsite": "-copy"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def look(place: Path, now: float = 0.0, **values: Any) -> dict[str, Check]:
    config = RepositoryConfig(url=f"file://{place}", **values)
    cluster = ClusterConfig(name="shop", dsn=f"host={place}", system_identifier=SYSTEM)
    both = Config(repositories={"main": config}, clusters={"shop": cluster})
    return {check.name: check for check in examine(cluster, both, clock=lambda: now)}


def make(place: Path, **values: Any) -> Repository:
    return create_repository(RepositoryConfig(url=f"file://{place}", **values))


def answer(check: Check) -> tuple[bool | None, str, str, str]:
    return check.ok, check.blocks, check.fact, check.mend


def test_a_good_one(place: Path) -> None:
    identifier = make(place).identifier
    checks = look(place)
    assert checks["repository"].fact == f'repository {identifier} is at "file://{place}"'
    assert checks["repository writable"].fact == "an object was written, read and removed"
    assert checks["lease"].fact == "nobody writes"
    assert checks["encryption"].fact == "objects are stored unencrypted"
    assert os.listdir(place) == ["pgproof.json"], "no directory was made that could keep the archiver out"
    assert stopped(list(checks.values())) == ("backup",), "only the server is away"


@pytest.mark.parametrize(("quorum", "blocks"), [(0, "backup"), (2, "backup"), (1, "")])
def test_copies(place: Path, quorum: int, blocks: str) -> None:
    """One that cannot be opened stops the archiver, unless the quorum can be had without it."""
    make(place)
    configs = {name: RepositoryConfig(url=f"file://{place}{suffix}") for name, suffix in COPIES.items()}
    cluster = ClusterConfig.model_validate(
        {"name": "shop", "dsn": "host=/nowhere", "copies": ["offsite"], "wal": {"quorum": quorum}}
    )
    config = Config(repositories=configs, clusters={"shop": cluster})
    checks = {check.name: check for check in examine(cluster, config)}
    assert answer(checks["copies"]) == (
        False,
        blocks,
        f'repository "offsite" gets no WAL: there is no repository at "file://{place}-copy"',
        "mount it, or make it: pgproof init shop again makes the copies",
    )
    create_repository(configs["offsite"])
    checks = {check.name: check for check in examine(cluster, config)}
    assert answer(checks["copies"]) == (True, "backup", "the WAL goes to offsite, too", "")


def test_no_copies(place: Path) -> None:
    assert look(place)["copies"].fact == "no other repository gets the WAL"


def test_none(place: Path) -> None:
    checks = look(place)
    assert answer(checks["repository"]) == (
        False,
        "restore",
        f'there is no repository at "file://{place}": "pgproof.json" is missing there. '
        "Is its file system mounted, its bucket the right one?",
        f"mount or create what is at file://{place}; pgproof init makes a new one",
    )
    assert checks["lease"].fact == "could not look: the repository is not open"
    assert not place.exists()


def test_a_newer_format(place: Path) -> None:
    make(place)
    (place / "pgproof.json").write_text('{"format": 2, "repository": "x"}')
    assert answer(look(place)["repository"]) == (
        False,
        "restore",
        f'repository "file://{place}" has format 2: This pgproof knows formats up to 1',
        "pip install --upgrade pgproof",
    )


def test_something_else(place: Path) -> None:
    place.mkdir()
    (place / "pgproof.json").write_text("{}")
    assert look(place)["repository"].fact == (
        f'"pgproof.json" in the repository "file://{place}" cannot be read: KeyError(\'format\')'
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_readonly(place: Path) -> None:
    make(place)
    place.chmod(0o555)
    check = look(place)["repository writable"]
    place.chmod(0o755)
    assert (check.ok, check.blocks) == (False, "backup")
    assert check.fact.startswith('cannot access "probe-')
    assert check.fact.endswith(f'" in the repository "file://{place}": Permission denied')
    assert check.mend == f"ls -ld {place}; the account that runs pgproof must be able to write there"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_closed(place: Path) -> None:
    make(place)
    place.chmod(0)
    check = look(place)["repository"]
    place.chmod(0o755)
    assert (check.ok, check.blocks) == (False, "restore")
    assert check.fact == f'cannot access "pgproof.json" in the repository "file://{place}": Permission denied'


def test_the_probe_goes_where_the_cluster_writes(place: Path) -> None:
    inside = place / "shop" / str(SYSTEM)
    make(place).store.put(f"shop/{SYSTEM}/wal/x", b"x")
    inside.chmod(0o555)
    check = look(place)["repository writable"]
    inside.chmod(0o755)
    assert check.ok is (os.geteuid() == 0)
    assert look(place)["repository writable"].ok
    assert os.listdir(inside) == ["wal"]


@pytest.mark.parametrize(
    ("content", "ok", "fact"),
    [
        (
            {"purpose": "a base backup", "pid": 9, "host": "db", "expires": 160.0},
            False,
            "held for a base backup by process 9 on db until 1970-01-01 00:02:40Z",
        ),
        (
            {"purpose": "a base backup", "pid": 9, "host": "db", "expires": 100.0},
            True,
            "held for a base backup by process 9 on db, dead since 1970-01-01 00:01:40Z",
        ),
        ({"expires": 160.0}, True, "it cannot be read and counts as dead: KeyError('purpose')"),
        ([], True, "it cannot be read and counts as dead: "),
    ],
)
def test_lease(place: Path, content: object, ok: bool, fact: str) -> None:
    make(place).store.put(Layout("shop", SYSTEM).lease, json.dumps(content).encode())
    check = look(place, now=100.0)["lease"]
    assert (check.ok, check.blocks) == (ok, "")
    assert check.fact.startswith(fact)
    assert bool(check.mend) is not ok


class Recorder:
    """A store whose objects cannot be removed."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.url = inner.url
        self.put, self.get, self.list, self.head = inner.put, inner.get, inner.list, inner.head

    def delete(self, key: str) -> None:
        raise RepositoryReadOnly(f'cannot access "{key}"', "AccessDenied.", "check the access key")


def test_a_store_that_removes_nothing(place: Path) -> None:
    repository = make(place)
    kept = Repository(Recorder(repository.store), repository.codec, "x")
    cluster = ClusterConfig(name="shop", dsn="", system_identifier=SYSTEM)
    subject = Subject(cluster, Config(), RepositoryReadOnly(), kept, 0.0)
    check = next(question for question in QUESTIONS if question.name == "repository writable").ask(subject)
    (key,) = [name for name in os.listdir(place) if name.startswith("probe-")]
    assert answer(check) == (
        False,
        "",
        f'objects can be written and not removed, so nothing expires: cannot access "{key}"',
        f'check the access key; then remove "{key}"',
    )


def test_encryption(place: Path, tmp_path: Path) -> None:
    mine, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    make(place)
    key = tmp_path / "key.txt"
    recipients: dict[str, Any] = {"age_recipients": [str(mine.to_public())]}
    assert answer(look(place, **recipients)["encryption"]) == (
        False,
        "restore",
        "age_recipients are configured and no age_identity: nothing stored can be read here",
        'add to [repositories.main]: age_identity = "file:/path/of/key.txt"',
    )
    key.write_text(str(mine))
    recipients["age_identity"] = f"file:{key}"
    assert look(place, **recipients)["encryption"].fact == "what is encrypted here can be decrypted here"
    key.write_text(str(other))
    check = look(place, **recipients)["encryption"]
    assert (check.ok, check.blocks) == (False, "restore")
    assert "cannot be decrypted with the configured age identity" in check.fact
    key.unlink()
    check = look(place, **recipients)["encryption"]
    assert check.fact == f'cannot read secret file "{key}": No such file or directory'
