"""The codec: what it writes, other programs read; what was altered, it refuses."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pyrage
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.errors import ConfigError, ObjectDamaged, PgproofError, StoreUnavailable
from pgproof.repository.codec import Codec, Measured
from tests.repository.conftest import recipient_of

MB = 1 << 20
SECOND = str(pyrage.x25519.Identity.generate())
CONTENT = b"a row of a table\n" * 2000 + random.Random(5).randbytes(150_000)


@pytest.fixture(params=["zstd", "age"])
def codec(request: pytest.FixtureRequest, identity: str) -> Codec:
    return Codec() if request.param == "zstd" else Codec(3, (recipient_of(identity),), identity)


def key(codec: Codec) -> str:
    return f"base-000.tar{codec.suffix}"


def encode(codec: Codec, content: bytes = CONTENT) -> bytes:
    return b"".join(codec.encode([content]))


def decode(codec: Codec, stored: bytes, size: int = 1 << 16) -> bytes:
    pieces = [stored[start : start + size] for start in range(0, len(stored), size)]
    return b"".join(codec.decode(key(codec), pieces))


def damage(codec: Codec, stored: bytes, size: int = 1 << 16) -> PgproofError:
    with pytest.raises(PgproofError) as caught:
        decode(codec, stored, size)
    return caught.value


# ---- round trip


def test_the_suffix_says_how_it_was_written(identity: str) -> None:
    assert Codec().suffix == ".zst"
    assert Codec(3, (recipient_of(identity),)).suffix == ".zst.age"


@pytest.mark.parametrize("level", [1, 3, 19])
def test_content_comes_back(codec: Codec, level: int) -> None:
    codec = Codec(level, codec.recipients, codec.identity)
    for content in (b"", b"x", CONTENT, bytes(3 * MB)):
        assert decode(codec, encode(codec, content)) == content


@settings(max_examples=40)
@given(chunks=st.lists(st.binary(max_size=5000), max_size=20), size=st.integers(1, 4000))
def test_cutting_into_chunks_makes_no_difference(chunks: list[bytes], size: int) -> None:
    for codec in (Codec(), Codec(3, (recipient_of(SECOND),), SECOND)):
        assert decode(codec, b"".join(codec.encode(chunks)), size) == b"".join(chunks)


def test_a_plain_object_is_given_as_it_is() -> None:
    assert list(Codec().decode("backup.json", [b"{", b"}"])) == [b"{", b"}"]


def test_what_expands_a_lot_is_given_in_pieces() -> None:
    """A table of zeros: 1 MB of what is stored would be 32 GB of memory."""
    stored = b"".join(Codec().encode(bytes(MB) for _ in range(1024)))
    assert len(stored) < 100_000
    sizes = [len(piece) for piece in Codec().decode("x.zst", [stored])]
    assert sum(sizes) == 1024 * MB
    assert max(sizes) <= 130 * MB


def test_every_recipient_can_read(identity: str) -> None:
    both = Codec(3, (recipient_of(identity), recipient_of(SECOND)), None)
    stored = encode(both)
    for one in (identity, SECOND):
        assert decode(Codec(3, both.recipients, one), stored) == CONTENT


def test_an_identity_file_may_have_comments_and_several_keys(identity: str) -> None:
    text = f"# created: 2026-11-23\n# public key: age1...\n{SECOND}\n\n  {identity}  \r\n"
    stored = encode(Codec(3, (recipient_of(identity),)))
    assert decode(Codec(3, (recipient_of(identity),), text), stored) == CONTENT


# ---- other programs


@pytest.mark.parametrize("level", [1, 3, 19])
def test_the_zstd_program_reads_it(level: int) -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("the zstd program is not installed")
    stored = encode(Codec(level))
    subprocess.run([program, "-t"], input=stored, check=True, capture_output=True)
    assert subprocess.run([program, "-dc"], input=stored, check=True, capture_output=True).stdout == CONTENT
    altered = bytearray(stored)
    altered[len(stored) // 2] ^= 1
    assert subprocess.run([program, "-t"], input=bytes(altered), capture_output=True).returncode != 0


@pytest.mark.parametrize("arguments", [["-3"], ["-19", "--long"], ["-1", "--no-check"]], ids=" ".join)
def test_what_the_zstd_program_wrote_is_read(arguments: list[str]) -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("the zstd program is not installed")
    stored = subprocess.run(
        [program, "-c", *arguments], input=CONTENT, check=True, capture_output=True
    ).stdout
    assert decode(Codec(), stored) == CONTENT


def test_the_age_format_is_what_another_reader_takes(identity: str) -> None:
    stored = encode(Codec(3, (recipient_of(identity),)))
    assert stored.startswith(b"age-encryption.org/v1\n-> X25519 ")
    compressed = pyrage.decrypt(stored, [pyrage.x25519.Identity.from_str(identity)])
    assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(compressed)).read() == CONTENT


def test_the_age_program_reads_it(identity: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    program = shutil.which("age") or shutil.which("rage")
    if program is None:
        pytest.skip("neither age nor rage is installed")
    key_file = tmp_path_factory.mktemp("age") / "key.txt"
    key_file.write_text(f"{identity}\n")
    stored = encode(Codec(3, (recipient_of(identity),)))
    command = [program, "-d", "-i", str(key_file)]
    compressed = subprocess.run(command, input=stored, check=True, capture_output=True).stdout
    assert decode(Codec(), compressed) == CONTENT


# ---- damage


@pytest.mark.parametrize("size", [1 << 30, 1 << 16, 1000], ids=["one chunk", "64 kB", "1 kB"])
def test_truncation_is_damage_wherever_it_happens(codec: Codec, size: int) -> None:
    stored = encode(codec)
    for length in [*range(0, 400, 7), *range(400, len(stored), 9973), *range(len(stored) - 20, len(stored))]:
        assert type(damage(codec, stored[:length], size)) is ObjectDamaged


@pytest.mark.parametrize(
    "extra", [b"\0", b"x" * 70_000, b"\x28\xb5\x2f\xfd"], ids=["a byte", "many", "a magic"]
)
@pytest.mark.parametrize("size", [1 << 30, 1 << 16, 1], ids=["one chunk", "64 kB", "bytes"])
def test_bytes_after_the_end_are_damage(codec: Codec, extra: bytes, size: int) -> None:
    stored = encode(codec, b"short")
    error = damage(codec, stored + extra, size)
    assert type(error) is ObjectDamaged
    if not codec.recipients:
        assert str(error) == 'object "base-000.tar.zst" has bytes after its end'


def test_two_objects_in_one_are_damage(codec: Codec) -> None:
    assert type(damage(codec, encode(codec) * 2, 1 << 30)) is ObjectDamaged


def test_a_flipped_bit_never_gives_other_content(codec: Codec) -> None:
    """A bit of zstd's frame header says how much memory to take, and may flip without harm."""
    stored = encode(codec)
    positions = [*range(0, 330), *range(330, len(stored), 1499), *range(len(stored) - 40, len(stored))]
    for position in positions:
        altered = bytearray(stored)
        altered[position] ^= 1 << position % 8
        try:
            assert decode(codec, bytes(altered)) == CONTENT
            assert position < 6
            assert not codec.recipients
        except ObjectDamaged:
            pass
        except ConfigError as error:  # in the part of age's header that says who may read
            assert position < 330
            assert "or its header was altered" in error.detail


def test_damage_in_words() -> None:
    stored = encode(Codec())
    assert str(damage(Codec(), stored[:-1])) == (
        'object "base-000.tar.zst" is truncated\nDETAIL: The zstd frame does not end.'
    )
    assert str(damage(Codec(), b"no zstd at all")) == (
        'object "base-000.tar.zst" is damaged\n'
        "DETAIL: zstd says: zstd decompressor error: Unknown frame descriptor."
    )


def test_damage_of_what_is_encrypted_in_words(identity: str) -> None:
    codec = Codec(3, (recipient_of(identity),), identity)
    stored = encode(codec)
    assert str(damage(codec, stored[:-1])) == (
        'object "base-000.tar.zst.age" cannot be decrypted\nDETAIL: decryption error.'
    )
    assert str(damage(codec, b"no age at all" * 50)) == (
        'object "base-000.tar.zst.age" cannot be decrypted\nDETAIL: Header is invalid.'
    )


# ---- keys


@pytest.mark.parametrize("identity", [None, "", "\n", "# only a comment\n"])
def test_without_an_identity_it_says_what_to_configure(identity: str | None) -> None:
    codec = Codec(3, (recipient_of(SECOND),), identity)
    with pytest.raises(ConfigError) as caught:
        decode(codec, encode(codec))
    assert str(caught.value) == (
        'object "base-000.tar.zst.age" is encrypted and no age identity is configured\n'
        'HINT: set age_identity = "file:/path/of/key.txt" in the repository\'s section'
    )


def test_the_wrong_identity_is_no_damage(identity: str) -> None:
    stored = encode(Codec(3, (recipient_of(SECOND),)))
    with pytest.raises(ConfigError) as caught:
        decode(Codec(3, (recipient_of(identity),), identity), stored)
    assert str(caught.value) == (
        'object "base-000.tar.zst.age" cannot be decrypted with the configured age identity\n'
        "DETAIL: It was encrypted for other recipients, or its header was altered.\n"
        "HINT: age_identity names the wrong key, or only some of the keys; a file may hold several"
    )
    assert identity not in str(caught.value)


def test_keys_that_are_none_bad(identity: str) -> None:
    stored = encode(Codec(3, (recipient_of(identity),)))
    with pytest.raises(ConfigError) as caught:
        decode(Codec(3, (recipient_of(identity),), "AGE-SECRET-KEY-1NOTONE"), stored)
    assert caught.value.fact == "the age identity cannot be read"
    assert "NOTONE" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        encode(Codec(3, ("age1nobody",)))
    assert caught.value.fact == "an age recipient cannot be read"
    assert caught.value.hint == "age-keygen prints one"


def test_the_identity_is_not_shown(identity: str) -> None:
    assert identity not in repr(Codec(3, (), identity))


# ---- errors of the source, and readers that stop early


def test_an_error_of_the_source_is_raised_as_it_is(codec: Codec) -> None:
    away = StoreUnavailable("could not read the source")
    stored = encode(codec)

    def source(content: bytes) -> Iterator[bytes]:
        yield content[:1000]
        raise away

    for attempt in (codec.encode(source(CONTENT)), codec.decode(key(codec), source(stored))):
        with pytest.raises(StoreUnavailable) as caught:
            b"".join(attempt)
        assert caught.value is away


def test_an_error_of_the_operating_system_is_no_damage(codec: Codec) -> None:
    def source() -> Iterator[bytes]:
        yield encode(codec)[:1000]
        raise OSError(5, "bad disk")

    with pytest.raises(OSError, match="bad disk"):
        b"".join(codec.decode(key(codec), source()))


def test_a_reader_that_stops_early_leaves_no_thread(codec: Codec) -> None:
    before = threading.active_count()
    noise = random.Random(1).randbytes(MB)
    stored = encode(codec, noise * 20)

    def endless() -> Iterator[bytes]:
        while True:
            yield noise

    for chunks in (codec.encode(endless()), codec.decode(key(codec), [stored])):
        assert next(iter(chunks))
        chunks.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before
    for start in (lambda: codec.encode(endless()), lambda: codec.decode(key(codec), [stored])):
        abandoned = start()
        next(abandoned)
        del abandoned
        assert threading.active_count() == before
    codec.encode(endless())  # never read at all
    assert threading.active_count() == before


def test_measured_counts_and_hashes_what_passes() -> None:
    measured = Measured([b"con", b"", b"tent"])
    assert b"".join(measured) == b"content"
    assert measured.size == 7
    assert measured.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
