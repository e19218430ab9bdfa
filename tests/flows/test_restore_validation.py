"""The flow ``restore-validation``: proven, not equal, not exact, not recovered; the scratch copy always goes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import tasks.validation
from flows.restore_validation import restore_validation
from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.repository.seal import sealed, unsealed
from pgproof.validation.drill import restore_scratch
from pgproof.validation.expectations import judgement
from pgproof.validation.fences.fence import Fence
from pgproof.validation.fences.fencing import take_fence
from pgproof.validation.proof import Proof
from tests.drills.damage import answer
from tests.flows.runs import Run, run
from tests.servers.postgres import Source

STEPS = ["choose backup", "fence source", "restore backup to scratch", "compare with source", "record proof"]
KEY = "pgproof-main-proof"


@pytest.fixture(scope="module")
def backup(shop: Source) -> BackupRecord:
    return shop.backup()


@pytest.fixture(autouse=True)
def nothing_left(shop: Source) -> Any:
    """Whatever came of a drill, its copy of the data is gone."""
    yield
    assert list((shop.root / "scratch").glob("*")) == []


def proof_of(shop: Source, done: Run) -> Proof:
    """The proof record that the artifact names, as it lies in the repository."""
    (key,) = [word.strip("`") for word in done.artifact(KEY).split() if "/proofs/" in word]
    return Proof.from_dict(unsealed((shop.repository_path / key).read_bytes()))


def test_proven(shop: Source, config: str) -> None:
    backup = shop.backup()
    done = run(restore_validation, "main", config)
    proof = proof_of(shop, done)
    assert done.name == "restore validation of main"
    assert done.tasks == STEPS
    assert set(done.attempts.values()) == {1}
    assert done.state.result().endswith(f"/proofs/{proof.identifier}.json")
    assert (proof.verdict, proof.backup) == ("proven", backup.label)
    assert read_catalog(shop.archive).entry(backup.label).state == "proven"
    text = done.artifact(KEY)
    rows = sum(kind["source"] for kind in proof.objects)
    equal = f"2 tables with 1,200 rows are equal, and {rows:,} rows of system catalogs"
    assert rows > 3000
    assert text.startswith(f"# PROVEN: main\n\n{equal}\n\n")
    assert "| objects of all databases | source | restored | content |\n" in text
    assert re.search(r"\n\| indexes \| (\d+) \| \1 \| equal \|\n", text)
    assert re.search(r"\n\| roles \| (\d+) \| \1 \| equal \|\n", text)
    assert "## Equal: 2 tables\n\n| database | table | rows | content hash |\n" in text
    assert "| postgres | `public.orders` | 1,000 | " in text
    assert "## Different" not in text
    assert "| Great Expectations | 7 of 7 expectations met |" in text
    assert (
        "## Not checked\n\n- postgres: `public.cache`: unlogged: it comes back empty after recovery" in text
    )
    assert text.endswith(
        "- every database: `passwords, server configuration files, replication slots, planner statistics, what "
        "tablespaces link to`: no drill compares them"
    )
    assert done.artifacts[KEY]["description"] == f"proven: {equal}"
    page = Path(proof.expectations["data_docs"])
    (suite,) = re.findall(r'<a href="(validations/[^"]+)">main-restore-equals-source</a>', page.read_text())
    assert "restored_hash" in (page.parent / unquote(suite)).read_text()


def test_not_equal(shop: Source, config: str, backup: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(cluster: Any, archive: Any, fence: Fence, *more: Any) -> Any:
        """The stored fence says that the source had one order more, before anything is restored."""
        (path,) = shop.repository_path.rglob(f"fences/{fence.identifier}.json")
        tree = json.loads(path.read_text())
        for table in tree["databases"][0]["tables"]:
            table["fingerprint"]["rows"] += table["name"] == "orders"
        path.chmod(0o600)
        path.write_bytes(sealed(tree))
        return real(cluster, archive, fence, *more)

    real = restore_scratch
    monkeypatch.setattr(tasks.validation, "restore_scratch", tampered)
    done = run(restore_validation, "main", config, backup=backup.label)

    assert done.state.name == "Failed"
    assert f'NotProven: backup "{backup.label}" of cluster "main" is not equal' in done.message
    difference = "postgres: public.orders: source has 1001 rows, restored has 1000"
    assert difference in done.message
    assert done.tasks == STEPS
    proof = proof_of(shop, done)
    assert (proof.verdict, proof.summary) == ("not equal", difference)
    assert not proof.expectations["success"]
    assert read_catalog(shop.archive).entry(backup.label).state == "failed"
    text = done.artifact(KEY)
    assert text.startswith(f"# NOT EQUAL: main\n\n{difference}\n")
    assert "## Different: 1 table\n" in text
    assert "| postgres | `public.orders` | 1,001 | 1,000 | " in text
    assert text.index("## Different") < text.index("## Equal: 1 table")
    assert done.artifacts[KEY]["description"] == f"not equal: {difference}"


def test_proven_and_not_startable_as_a_user_is_told_to(shop: Source, config: str) -> None:
    shop.write_config(cluster="drill.as_restored = 1")
    path = shop.data / "postgresql.conf"
    text = path.read_text()
    path.write_text(f"{text}\nwrok_mem = '4MB'\n")  # a slip of the pen that the running server never reads
    try:
        backup = shop.backup()
    finally:
        path.write_text(text)
    done = run(restore_validation, "main", config)

    assert done.state.name == "Failed"
    assert (
        f'RestoreDiffers: backup "{backup.label}" of cluster "main" is proven, and a restore' in done.message
    )
    assert 'unrecognized configuration parameter "wrok_mem"' in done.message
    assert done.tasks == [*STEPS[:2], "restore as a user does", *STEPS[2:]]
    proof = proof_of(shop, done)
    assert (proof.verdict, proof.recovered) == ("proven", False)
    assert read_catalog(shop.archive).entry(backup.label).state == "proven"
    assert "**WARNING: restored as a user is told to, it is not what was proven: " in done.artifact(KEY)


def test_a_damaged_backup_is_not_recovered(shop: Source, config: str) -> None:
    backup = shop.backup()
    volume = shop.repository_path / backup.volumes[0].object.key
    volume.chmod(0o600)
    volume.write_bytes(volume.read_bytes()[:-100] + bytes(100))

    done = run(restore_validation, "main", config)

    assert f'NotProven: backup "{backup.label}" of cluster "main" is not recovered' in done.message
    assert done.tasks == ["choose backup", "fence source", "restore backup to scratch", "record proof"]
    assert done.attempts["restore backup to scratch"] == 1  # damage stays damage
    proof = proof_of(shop, done)
    assert proof.verdict == "not recovered"
    assert f'object "{backup.volumes[0].object.key}" is damaged' in proof.summary
    assert "No table was compared." in done.artifact(KEY)
    assert "| RTO measured | " in done.artifact(KEY)


def test_not_exact(shop: Source, config: str, backup: BackupRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def blurred(*arguments: Any) -> Fence:
        fence = real(*arguments)
        databases = [dataclasses.replace(d, cut=None, reason="commits overlap") for d in fence.databases]
        return dataclasses.replace(fence, databases=tuple(databases))

    real = take_fence
    monkeypatch.setattr(tasks.validation, "take_fence", blurred)
    done = run(restore_validation, "main", config, backup=backup.label)
    assert f'NotProven: backup "{backup.label}" of cluster "main" is not exact' in done.message
    assert proof_of(shop, done).summary == "postgres: commits overlap"
    assert done.artifact(KEY).startswith("# NOT EXACT: main\n\npostgres: commits overlap\n")
    assert "| exact cut | none |" in done.artifact(KEY)


def test_a_fault_of_the_surroundings_is_no_verdict(
    shop: Source, config: str, backup: BackupRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while comparing that says nothing of the backup: tried again, then the run fails without a proof."""

    def broken(*arguments: Any, **named: Any) -> Any:
        assert list((shop.root / "scratch").iterdir())  # restored once, and there for each try
        raise OSError(28, "No space left on device")

    before = len(list(shop.repository_path.rglob("proofs/*.json")))
    monkeypatch.setattr(judgement, "compare_restored", broken)
    done = run(restore_validation, "main", config, backup=backup.label)
    assert "No space left on device" in done.message
    assert done.attempts["compare with source"] == 4
    assert done.attempts["restore backup to scratch"] == 1
    assert done.tasks == STEPS[:-1]
    assert len(list(shop.repository_path.rglob("proofs/*.json"))) == before
    assert KEY not in done.artifacts  # a slow restore shows its progress


def test_a_backup_that_does_not_exist(shop: Source, config: str, backup: BackupRecord) -> None:
    done = run(restore_validation, "main", config, backup="20200101T000000Z-full")
    assert 'NoBackup: backup "20200101T000000Z-full" does not exist' in done.message
    assert done.attempts == {"choose backup": 1}


def test_the_command_and_the_flow_give_the_same_proof(
    shop: Source, config: str, backup: BackupRecord
) -> None:
    done = run(restore_validation, "main", config, backup=backup.label)
    flow = proof_of(shop, done)
    code, out, err = answer(shop, "drill", "main", "--backup", backup.label, "--json")
    assert (code, err) == (0, "")
    command = json.loads(out)
    command.pop("key")
    read = Proof.from_dict(command)
    assert (read.verdict, read.backup, read.tables) == (flow.verdict, flow.backup, flow.tables)
    assert set(read.phases) == set(flow.phases)
    assert [item.key.rsplit("/", 1)[1] for item in read.evidence] == [
        item.key.rsplit("/", 1)[1] for item in flow.evidence
    ]
    suites = [{n: s["met"] for n, s in proof.expectations["suites"].items()} for proof in (read, flow)]
    assert suites[0] == suites[1]
    assert {c["name"]: c["ok"] for c in read.checks} == {c["name"]: c["ok"] for c in flow.checks}
