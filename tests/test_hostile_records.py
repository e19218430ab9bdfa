"""Records of others: one that was altered is a finding about itself, and every command goes on with the rest.

Each record of an archive is exchanged for one without a seal that is wrong somewhere: another type, a huge number, no
number, an odd time, a name twice, a tree as deep as memory. No command ends with a fault of ours, and the other backups
are listed.
"""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgproof.backups.base_backup import take_backup
from pgproof.backups.catalog import read_catalog
from pgproof.backups.verification import Verification, write_verification
from pgproof.repository.seal import FIELD, strict_json
from pgproof.restore.running import RunningRestore
from pgproof.retention.hold import add_hold
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source
from tests.validation.drilling import drill

COMMANDS = (
    ["list", "main"],
    ["restore", "main", "--to", "{to}", "--dry-run"],
    ["expire", "main", "--dry-run"],
    ["wal", "check", "main"],
    ["doctor", "main"],
    ["fleet"],
    ["objectives", "main"],
)
ODD: list[Any] = [
    None, True, 0, -1, 1.5, 1e300, 10**18, 1 << 63, "", "x", "-1", "9" * 400, "2026-01-01T00:00:00",
    "0001-01-01T00:00Z", "9999-12-31T23:59:59-14:00", "0/0",
     "FFFFFFFF/FFFFFFFF", "../../etc", [], [[]], [1], {}, {"a": 1}, [None], "\udce9",
]  # fmt: skip
RAW = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"NaN",
    b'{"a": Infinity}', b'{"a": 1, "a": 2}', b'{"a": ' + b"9" * 5000 + b"}", b"{}" * 2, b'{"a": 1e999}',
]  # fmt: skip


@pytest.fixture(scope="module")
def kept() -> Iterator[Source]:
    """A source with two backups, and one record of each kind."""
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
        first = source.backup()
        drill(source)
        second = source.backup()
        archive = source.archive
        add_hold(archive, first.label, "a reason", None, now=datetime.now(UTC))
        write_verification(archive, Verification(first.label, datetime.now(UTC), True, 3, 1000))
        until = datetime.now(UTC) + timedelta(days=1)
        note = RunningRestore("note", second.label, ((second.first_segment.name,) * 2,), "host:/x", until)
        archive.write_json(f"{archive.layout.restores}note.json", note.as_dict())
        archive.write_json(
            archive.layout.wal_removed,
            {
                "segment_size": 1 << 20,
                "runs": [{"first": "0" * 7 + "1" + "0" * 15 + "1", "last": "0" * 7 + "1" + "0" * 15 + "1"}],
            },
        )
        assert answer(source, "wal", "check", "main", "--content")[0] == 0
        archive.store.put(
            archive.layout.lease, json.dumps({"token": "x", "expires": 1, "pid": 1, "host": "h"}).encode()
        )
        yield source


def records(source: Source) -> dict[str, Path]:
    """The first record of each kind, as a file."""
    layout, root = source.archive.layout, source.repository_path
    label = read_catalog(source.archive).entries[0].label
    found = {
        "backup": root / layout.backup_record(label),
        "verification": root / layout.verification(label),
        "hold": root / f"{layout.holds}{label}.json",
        "proof": next((root / layout.proofs).glob("*.json")),
        "fence": next((root / layout.fences).glob("*.json")),
        "note": root / f"{layout.restores}note.json",
        "checked": root / layout.wal_checked,
        "removed": root / layout.wal_removed,
        "lease": root / layout.lease,
    }
    assert all(path.is_file() for path in found.values()), found
    return found


KINDS = ("backup", "verification", "hold", "proof", "fence", "note", "checked", "removed", "lease")


@contextmanager
def exchanged(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def assert_the_rest_goes_on(source: Source, kind: str, commands: Any = COMMANDS) -> None:
    labels = sorted(path.name for path in (source.repository_path / source.archive.layout.backups).iterdir())
    for words in commands:
        code, out, error = answer(source, *(word.replace("{to}", f"{source.root}/to") for word in words))
        assert code not in (70, 10) and "Traceback" not in error, (kind, words, code, error)
        if words[0] == "list":
            assert labels[1] in out and labels[0] in out, (out, error)
        if words[0] in ("restore", "wal", "fleet", "doctor", "objectives"):
            assert code in (0, 1), (kind, words, code, error)
        if words[0] == "expire":
            assert code in (0, 1) and (code == 0 or kind == "note"), (kind, code, error)


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree, itself included."""
    yield at
    children: Any = (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    )
    for key, child in children:
        yield from places(child, (*at, key))


def altered(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[at[0]] = altered(tree[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_record_at_all(kept: Source, kind: str) -> None:
    path = records(kept)[kind]
    for number, content in enumerate(RAW):
        with exchanged(path, content):
            few = COMMANDS if number in (7, 11) else COMMANDS[:3]
            assert_the_rest_goes_on(kept, kind, few)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_one_value_of_one_record(kept: Source, kind: str, data: st.DataObject) -> None:
    path = records(kept)[kind]
    tree = json.loads(path.read_bytes())
    tree.pop(FIELD, None)
    at = data.draw(st.sampled_from(list(places(tree))))
    wrong = altered(tree, at, data.draw(st.sampled_from(ODD)))
    with exchanged(path, json.dumps(wrong).encode()):
        assert_the_rest_goes_on(kept, kind, [COMMANDS[0], *data.draw(st.permutations(COMMANDS[1:]))[:2]])


def test_a_damaged_record_is_named_everywhere(kept: Source) -> None:
    path = records(kept)["backup"]
    label = path.parent.name
    with exchanged(path, b'{"label": 5}'):
        code, out, _ = answer(kept, "list", "main")
        assert (code, f"damaged: {label}: " in out) == (1, True)
        code, out, _ = answer(kept, "wal", "check", "main")
        assert (code, f'finding: record "{label}" cannot be used: ' in out) == (1, True)
        code, out, _ = answer(kept, "expire", "main", "--dry-run")
        assert (code, f'warning: backup "{label}" is kept, with all WAL' in out) == (0, True)
        assert answer(kept, "drill", "main")[0] == 0


def test_a_manifest_that_unpacks_to_gigabytes(kept: Source, tmp_path: Path) -> None:
    """128 kB of zstd were 4 GB of zeros, and took twice as much memory."""
    path = records(kept)["backup"]
    tree = json.loads(path.read_bytes())
    tree.pop(FIELD)
    compressor = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(1 << 24)
    bomb = b"".join(compressor.compress(zeros) for _ in range(66)) + compressor.flush()
    manifest = kept.repository_path / tree["manifest"]["key"]
    from hashlib import sha256

    tree["manifest"] |= {"size": len(bomb), "sha256": sha256(bomb).hexdigest()}
    with exchanged(manifest, bomb), exchanged(path, json.dumps(tree).encode()):
        for words in (
            ["verify", "main", "--backup", path.parent.name],
            ["restore", "main", "--backup", path.parent.name, "--to", str(tmp_path / "to")],
        ):
            tracemalloc.start()
            code, out, error = answer(kept, *words)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert (code, "is larger than any of its kind" in out + error) == (1, True), (out, error)
            assert peak < 400 << 20
    assert not (tmp_path / "to").exists() or not os.listdir(tmp_path / "to")


@pytest.mark.parametrize("data", RAW[:2] + RAW[6:])
def test_what_is_not_strict_json(data: bytes) -> None:
    with pytest.raises(ValueError):
        strict_json(data)


def test_taking_a_backup_goes_on_too(kept: Source) -> None:
    with exchanged(records(kept)["backup"], b'{"stop_lsn": [1]}'):
        take_backup(kept.cluster, kept.repository, now)
