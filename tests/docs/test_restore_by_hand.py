"""docs/runbooks/restore-by-hand.md, run block by block with zstd, tar, age and PostgreSQL's programs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.docs.pages import PROJECT, blocks
from tests.servers.postgres import Source, running_source

RUNBOOK = PROJECT / "docs" / "runbooks" / "restore-by-hand.md"
COREUTILS = (
    "cat",
    "chmod",
    "cp",
    "echo",
    "env",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "ln",
    "sha256sum",
    "sleep",
    "touch",
)
NEEDED = ("bash", "sh", "tar", "zstd")
MISSING = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} missing: apt-get install zstd tar"
)
needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="age is missing: apt-get install age")

FIRST = (
    "1. Name what is where",
    "2. Choose the backup",
    "3. Check every byte",
    "4. Unpack it",
)
AFTER = (
    "5. Check the files against PostgreSQL's own manifest",
    "6. Let recovery fetch WAL",
    "The configuration of the source",
)
FULL = (*FIRST, "A full backup", *AFTER)
INCREMENTAL = (*FIRST, "An incremental backup", *AFTER)
TO_THE_END = ("8. Start it, and look", "When everything is recovered")
TO_A_TIME = (
    "To stop at a point in time",
    "8. Start it, and look",
    "When it pauses at a point in time",
)
EVERY_SECTION = {*FULL, *INCREMENTAL, *TO_THE_END, *TO_A_TIME}

ByHand = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS = "SELECT count(*), coalesce(sum(g), 0) FROM plain UNION ALL SELECT count(*), sum(g) FROM spaced"


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A source with a tablespace; each test adds what it restores."""
    with running_source(17, summarize_wal="on") as source:
        space = source.root / "space"
        space.mkdir()
        source.sql(f"CREATE TABLESPACE fast LOCATION '{space}'")
        source.sql("CREATE TABLE plain AS SELECT g FROM generate_series(1, 3000) g")
        source.sql("CREATE TABLE spaced TABLESPACE fast AS SELECT g FROM generate_series(1, 2000) g")
        source.sql("ALTER SYSTEM SET archive_mode = 'on'")
        yield source


@pytest.fixture
def by_hand(protected: Source, tmp_path: Path) -> Iterator[ByHand]:
    """Run sections of the runbook in one shell; the restored server is stopped afterwards."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*COREUTILS, *NEEDED, "age"):
        if (found := shutil.which(name)) is not None:
            (programs / name).symlink_to(found)
    place = protected.root / f"by-hand-{tmp_path.name}"
    socket = protected.root / "s-hand"
    socket.mkdir(exist_ok=True)
    base = {
        "PATH": f"{programs}:{protected.bin}",
        "HOME": os.environ.get("HOME", "/tmp"),
        "REPOSITORY": str(protected.repository_path),
        "CLUSTER": "main",
        "TARGET": str(place / "data"),
        "SPACES": str(place / "spaces"),
        "SOCKET": str(socket),
        "PGUSER": "postgres",
    }

    def run(
        sections: tuple[str, ...], variables: Mapping[str, str], *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        script = "".join(
            f"# ---- {block.section}\n{block.text}"
            for section in sections
            for block in blocks(RUNBOOK)
            if block.section == section
        )
        done = subprocess.run(
            [str(programs / "bash"), "-eu"],
            input=script,
            capture_output=True,
            text=True,
            env={**base, **variables},
            cwd=tmp_path,
            timeout=240,
        )
        if check:
            log = place / "data.log"
            said = log.read_text(errors="replace")[-3000:] if log.exists() else ""
            assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{said}"
        return done

    yield run
    subprocess.run(
        [protected.bin / "pg_ctl", "-D", place / "data", "-m", "immediate", "stop"], capture_output=True
    )
    shutil.rmtree(place, ignore_errors=True)


def ask(source: Source, query: str) -> list[str]:
    """Ask the restored server."""
    done = subprocess.run(
        [
            source.bin / "psql",
            "-h",
            source.root / "s-hand",
            "-d",
            "postgres",
            "-U",
            "postgres",
            "-XAtc",
            query,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def rows(source: Source) -> list[str]:
    return ["|".join(str(value) for value in row) for row in source.sql(ROWS)]


def test_every_block_is_run_by_one_of_these_tests() -> None:
    found = {block.section for block in blocks(RUNBOOK)}
    assert found == EVERY_SECTION
    assert {block.language for block in blocks(RUNBOOK)} == {"sh"}


def test_a_full_backup_to_the_end_of_wal(protected: Source, by_hand: ByHand) -> None:
    record = protected.backup()
    label = record.label
    protected.sql("INSERT INTO plain SELECT g FROM generate_series(1, 500) g")
    protected.sql("INSERT INTO spaced VALUES (7)")
    protected.archive_now()

    done = by_hand(FULL + TO_THE_END, {"LABEL": label})

    assert ask(protected, ROWS) == rows(protected)
    assert ask(protected, "SHOW archive_mode") == ["off"]
    place = ask(protected, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'")[0]
    assert place.startswith(f"{protected.root}/by-hand-")
    assert "backup successfully verified" in done.stdout
    checked = [line for line in done.stdout.splitlines() if line.endswith(": OK")]
    assert len(checked) == len(record.volumes) + 1
    assert f'"label": "{label}"' in done.stdout


def test_a_full_backup_to_a_point_in_time(protected: Source, by_hand: ByHand) -> None:
    label = protected.backup().label
    protected.sql("INSERT INTO spaced VALUES (11)")
    wanted = rows(protected)
    moment = protected.sql("SELECT clock_timestamp()::text")[0][0]
    time.sleep(0.05)
    protected.sql("DELETE FROM spaced")
    protected.sql("INSERT INTO spaced VALUES (13)")
    protected.archive_now()

    by_hand(FULL + TO_A_TIME, {"LABEL": label, "TIME": moment})

    assert ask(protected, ROWS) == wanted
    assert ask(protected, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)") == ["00000002"]


def test_an_incremental_backup(protected: Source, by_hand: ByHand) -> None:
    protected.backup()
    protected.sql("INSERT INTO plain SELECT g FROM generate_series(1, 100) g")
    _later(protected)
    protected.backup(incremental=True)
    protected.sql("INSERT INTO spaced SELECT g FROM generate_series(1, 100) g")
    _later(protected)
    label = protected.backup(incremental=True).label
    protected.sql("INSERT INTO spaced VALUES (17)")
    protected.archive_now()

    by_hand(INCREMENTAL + TO_THE_END, {"LABEL": label})

    assert ask(protected, ROWS) == rows(protected)


@needs_age
def test_an_encrypted_backup_whose_wal_is_partly_plain(
    protected: Source, by_hand: ByHand, tmp_path: Path
) -> None:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    key = tmp_path / "key.txt"
    key.write_text(f"# created by a test\n{identity}\n")
    url = f"file://{protected.repository_path}"
    settings = f'age_recipients = ["{identity.to_public()}"]\nage_identity = "file:{key}"\n'
    protected.config_path.write_text(
        protected.config_path.read_text().replace(f'url = "{url}"\n', f'url = "{url}"\n{settings}')
    )
    try:
        record = protected.backup()
        protected.sql("INSERT INTO plain VALUES (19)")
        protected.archive_now()
        wanted = rows(protected)
    finally:
        protected.write_config()
    protected.sql("INSERT INTO plain VALUES (23)")
    protected.archive_now()

    assert all(volume.object.key.endswith(".tar.zst.age") for volume in record.volumes)
    by_hand(FULL + TO_THE_END, {"LABEL": record.label, "KEY": str(key)})

    assert ask(protected, ROWS) == rows(protected) != wanted


def test_a_damaged_volume_stops_it(protected: Source, by_hand: ByHand) -> None:
    record = protected.backup()
    volume = protected.repository_path / record.volumes[1].object.key
    content = bytearray(volume.read_bytes())
    content[len(content) // 2] ^= 1
    volume.write_bytes(content)

    done = by_hand(FULL + TO_THE_END, {"LABEL": record.label}, check=False)

    assert done.returncode != 0
    assert f"{volume}: FAILED" in done.stdout
    assert "1 computed checksum did NOT match" in done.stderr


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        ("", 1),
        ("rm -r {archive}", 200),
        ("echo exit 2 > {target}.fetch-wal", 254),
        ("rm {target}.fetch-wal", 127),
    ],
    ids=["not archived", "archive away", "script fails", "script gone"],
)
def test_only_not_archived_is_1_and_all_else_stops_recovery(
    protected: Source, by_hand: ByHand, tmp_path: Path, harm: str, code: int
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "postgresql.auto.conf").touch()
    (target / "postgresql.conf").touch()
    archive = tmp_path / "archive"
    for name in ("backups", "wal"):
        (archive / name).mkdir(parents=True)
    by_hand(("1. Name what is where", AFTER[1]), {"TARGET": str(target), "ARCHIVE": str(archive)})
    subprocess.run(harm.format(archive=archive, target=target), shell=True, check=True)
    line = next(
        line for line in (target / "postgresql.auto.conf").read_text().splitlines() if "fetch-wal" in line
    )
    command = line.removeprefix("restore_command = '").removesuffix("'")

    done = subprocess.run(
        command.replace("%f", "00000001000000000000000A").replace("%p", str(tmp_path / "p")), shell=True
    )

    assert done.returncode == code
    assert not (tmp_path / "p").exists()


def _later(source: Source) -> None:
    """Labels are seconds, and a summary must exist up to the next backup's start."""
    source.sql("CHECKPOINT")
    source.archive_now()
    time.sleep(1.1)
