"""The base of the WAL window rots: what the window promises stays, and nobody is told of a gap that expire made."""

from __future__ import annotations

import time
from pathlib import Path

from pgproof.backups.catalog import read_catalog
from tests.drills.damage import answer, flip_bit
from tests.servers.postgres import Source

LIMITS = 'retention = {{ daily = 1, weekly = 0, monthly = 0, wal_window = "{}", approve_above = 1 }}'


def test_the_base_of_the_window_rots(source: Source, tmp_path: Path) -> None:
    source.sql("CREATE TABLE t (g int)")
    held = source.backup().label
    assert answer(source, "hold", "main", held, "--reason", "audit")[0] == 0
    source.archive_now()
    source.archive_now()
    time.sleep(1)  # a label has whole seconds
    base = source.backup()
    source.write_config(cluster=LIMITS.format("0s"))
    assert answer(source, "expire", "main")[0] == 0  # takes the WAL between them
    time.sleep(1)
    source.archive_now()
    first = source.backup().label
    source.sql("INSERT INTO t VALUES (1)")
    lsn = source.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    source.archive_now()
    time.sleep(1)
    newest = source.backup().label

    flip_bit(source.repository_path / base.volumes[0].object.key)
    assert answer(source, "verify", "main", "--backup", base.label)[0] == 1
    source.write_config(cluster=LIMITS.format("1d"))
    code, out, err = answer(source, "wal", "check", "main")
    assert (code, "no gap" in out) == (0, True), out + err
    code, out, err = answer(source, "expire", "main")
    assert code == 0, err
    kept = [entry.label for entry in read_catalog(source.archive).entries]
    assert kept == [held, base.label, first, newest]
    code, out, err = answer(
        source, "restore", "main", "--to", str(tmp_path / "r"), "--target-lsn", lsn, "--dry-run"
    )
    assert code == 0, err
    assert first in out
    code, out, err = answer(source, "wal", "check", "main")
    assert code == 0, out + err
