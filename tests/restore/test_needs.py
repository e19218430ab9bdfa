"""What a start needs is asked for before the first write, by the dry run as by the restore."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyrage
import pytest

from pgproof.backups.locales import Locale, library_version
from pgproof.errors import ProgramMissing
from pgproof.restore.needs import little_room, other_locales, programs_for
from pgproof.restore.plan import RestorePlan, RestoreRequest
from pgproof.restore.procedure import make_plan
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source


@dataclass
class Locked:
    """A source whose repository is encrypted, and the files of two keys."""

    source: Source
    key: Path
    other: Path

    def use(self, recipient: Path, *identities: Path) -> None:
        """Write with one key, and read with some."""
        key = self.source.root / "identities"
        key.write_text("".join(path.read_text() for path in identities))
        public = pyrage.x25519.Identity.from_str(recipient.read_text().strip()).to_public()
        store = f'age_recipients = ["{public}"]\nage_identity = "file:{key}"'
        self.source.write_config(store=store)


@pytest.fixture(scope="module")
def locked() -> Iterator[Locked]:
    with running_source(17) as source:
        made = Locked(source, source.root / "key", source.root / "other")
        for path in (made.key, made.other):
            path.write_text(f"{pyrage.x25519.Identity.generate()}\n")
        made.use(made.key, made.key)
        source.sql("CREATE TABLE t (g int)")
        source.archive_now()
        source.backup()
        source.archive_now()
        yield made


def refused(source: Source, tmp_path: Path) -> str:
    """What a dry run and a restore both say; neither has written anything."""
    said = []
    for option in ("--dry-run", "--json"):
        code, _, err = answer(source, "restore", "main", "--to", str(tmp_path / "restored"), option)
        assert code == 2, err
        said.append(err)
    assert list(tmp_path.iterdir()) == []
    assert said[0] == said[1]
    return said[0]


def test_the_key_is_asked_for_before_the_first_write(locked: Locked, tmp_path: Path) -> None:
    locked.use(locked.key, locked.other)
    assert "cannot be decrypted with the configured age identity" in refused(locked.source, tmp_path)
    code, _, err = answer(locked.source, "drill", "main")
    assert (code, "cannot be decrypted with the configured age identity" in err) == (2, True), err
    assert not list((locked.source.root / "scratch").glob("*"))
    assert not locked.source.archive.record_names(locked.source.archive.layout.proofs)
    (locked.source.root / "identities").unlink()
    assert f'cannot read secret file "{locked.source.root}/identities"' in refused(locked.source, tmp_path)
    locked.use(locked.key, locked.key)
    code, _, err = answer(locked.source, "restore", "main", "--to", str(tmp_path / "restored"), "--dry-run")
    assert code == 0, err


def test_a_key_that_opens_the_backup_and_not_its_wal(locked: Locked, tmp_path: Path) -> None:
    source = locked.source
    locked.use(locked.other, locked.key, locked.other)
    source.set()  # the pusher begins again, with the new key
    newest = source.archive_now()
    locked.use(locked.other, locked.key)
    assert newest in refused(source, tmp_path)
    source.stored(newest).unlink()
    locked.use(locked.key, locked.key)
    source.set()


@pytest.fixture
def plan(locked: Locked) -> RestorePlan:
    source = locked.source
    request = RestoreRequest(source.root / "restored")
    return make_plan(source.config, source.cluster, source.archive, request, now())


def test_a_chain_needs_the_program_that_combines_it(
    locked: Locked, plan: RestorePlan, tmp_path: Path
) -> None:
    (tmp_path / "postgres").symlink_to(locked.source.bin / "postgres")
    cluster = locked.source.cluster.model_copy(update={"bin_directory": tmp_path})
    assert programs_for(plan, cluster) == tmp_path
    with pytest.raises(ProgramMissing) as caught:
        programs_for(replace(plan, chain=(plan.record, plan.record)), cluster)
    assert caught.value.fact == f'pg_combinebackup is not in "{tmp_path}"'


def test_without_any_program_the_files_alone_can_be_put_back(locked: Locked, tmp_path: Path) -> None:
    source = locked.source
    cluster = source.cluster.model_copy(update={"bin_directory": tmp_path / "nothing"})
    found = make_plan(source.config, cluster, source.archive, RestoreRequest(tmp_path / "restored"), now())
    assert any(warning.startswith("PostgreSQL 17 is not installed here") for warning in found.warnings)
    with pytest.raises(ProgramMissing):
        programs_for(replace(found, chain=(found.record, found.record)), cluster)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("mode", [0o000, 0o500])
@pytest.mark.parametrize("below", [".", "restored", "a/b"])
def test_a_place_that_cannot_be_written(locked: Locked, tmp_path: Path, mode: int, below: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(mode)
    to = str(closed / below)
    try:
        for option in ("--dry-run", "--json"):
            code, out, err = answer(locked.source, "restore", "main", "--to", to, option)
            assert code == 43, err
            assert err.startswith(f'pgproof: cannot restore into "{Path(to)}"\n')
        assert json.loads(out)["error"] == "DestinationRefused"
    finally:
        closed.chmod(0o700)
    assert list(closed.iterdir()) == []


def test_a_file_stands_in_the_way(locked: Locked, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = answer(locked.source, "restore", "main", "--to", str(tmp_path / "file" / "x"), "--dry-run")
    assert (code, f"{tmp_path}/file is not a directory" in err) == (43, True)


def test_little_room_for_wal_is_a_warning(locked: Locked, plan: RestorePlan) -> None:
    free = shutil.disk_usage(locked.source.root).free
    assert little_room(plan) == []
    (warning,) = little_room(replace(plan, room=2 * free))
    assert "of WAL there" in warning


def test_locales_of_the_source_that_are_not_here(plan: RestorePlan) -> None:
    assert plan.record.locales == (Locale("C.UTF-8"),)
    assert other_locales(plan.record.locales) == []
    missing, other = other_locales((Locale("xx_XX.UTF-8"), Locale("C.UTF-8", "1.9")))
    assert missing.startswith('locale "xx_XX.UTF-8" of the source is not installed here')
    assert other.startswith(
        f"the source sorted text with C library 1.9, this machine has {library_version()}"
    )
    assert other_locales((Locale("C.UTF-8", library_version()),)) == []
