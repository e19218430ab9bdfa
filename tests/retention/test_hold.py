"""Holds: placed, seen by the catalog, ended."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from pgproof.backups.catalog import Hold, read_catalog
from pgproof.errors import NoBackup, ObjectDamaged, UsageError
from pgproof.repository.repository import Archive
from pgproof.repository.seal import unsealed
from pgproof.repository.store import Store
from pgproof.retention.hold import add_hold, hold_key, read_hold, remove_hold
from tests.repository.passing import Passing
from tests.retention import archives
from tests.retention.archives import LAYOUT, NOON, archive_on, entry

UNTIL = datetime(2027, 1, 1, tzinfo=UTC)
held = functools.partial(add_hold, now=NOON)


@pytest.fixture
def archive(store: Store) -> Archive:
    made = archive_on(store)
    archives.store_facts(made, archives.facts([entry("one", NOON, 10), entry("two", NOON, 20)]))
    return made


@pytest.mark.parametrize("until", [None, UNTIL])
def test_a_hold_is_plain_json_that_the_catalog_reads(archive: Archive, until: datetime | None) -> None:
    assert held(archive, "one", "audit", until) == Hold("one", "audit", until)
    content = unsealed(b"".join(archive.store.get(f"{LAYOUT.holds}one.json")))
    assert content == {"label": "one", "reason": "audit", "until": until.isoformat() if until else None}
    assert read_catalog(archive).entry("one").hold == Hold("one", "audit", until)
    assert read_catalog(archive).entry("two").hold is None
    assert read_hold(archive, "one") == Hold("one", "audit", until)
    assert read_hold(archive, "two") is None


@pytest.mark.parametrize(
    ("until", "end"), [(None, "without an end"), (UNTIL, "until 2027-01-01 00:00:00+0000")]
)
def test_a_hold_is_not_replaced_unless_that_is_asked_for(
    archive: Archive, until: datetime | None, end: str
) -> None:
    first = held(archive, "one", "audit 2026", until)
    with pytest.raises(UsageError) as caught:
        held(archive, "one", "held by hand", UNTIL)
    assert str(caught.value) == (
        'backup "one" is held already\n'
        f'DETAIL: It is held {end}, for this reason: "audit 2026".\n'
        "HINT: add --replace to put the new reason and end in place of these"
    )
    assert read_hold(archive, "one") == first
    held(archive, "one", "migration", UNTIL, replace=True)
    assert read_hold(archive, "one") == Hold("one", "migration", UNTIL)


def test_a_hold_that_is_over_is_replaced(archive: Archive) -> None:
    held(archive, "one", "audit", NOON)
    held(archive, "one", "migration")
    assert read_hold(archive, "one") == Hold("one", "migration")


def test_remove_hold(archive: Archive) -> None:
    held(archive, "one", "audit")
    remove_hold(archive, "one")
    assert read_hold(archive, "one") is None
    with pytest.raises(UsageError) as caught:
        remove_hold(archive, "one")
    assert str(caught.value) == 'backup "one" is not held\nDETAIL: Held are: none.\nHINT: pgproof list NAME'


def test_a_hold_can_be_ended_when_its_backup_is_gone(archive: Archive) -> None:
    held(archive, "one", "audit")
    archive.store.delete(LAYOUT.backup_record("one"))
    remove_hold(archive, "one")
    assert list(archive.store.list(LAYOUT.holds)) == []


@pytest.mark.parametrize("label", ["three", "", "..", "../one", "one/"])
def test_an_unknown_label_is_refused(archive: Archive, label: str) -> None:
    with pytest.raises(NoBackup) as caught:
        held(archive, label, "audit")
    assert str(caught.value) == (
        f'backup "{label}" does not exist\nDETAIL: There are: one, two.\nHINT: pgproof list NAME'
    )
    assert list(archive.store.list(LAYOUT.holds)) == []


@pytest.mark.parametrize(
    ("reason", "until", "message"),
    [
        (" ", None, 'a hold on backup "one" needs a reason\nHINT: pgproof hold NAME one --reason "..."'),
        (
            "audit",
            datetime(2027, 1, 1),
            'the end of a hold "2027-01-01T00:00:00" has no time zone\nHINT: such as 2026-12-31T00:00:00Z',
        ),
    ],
)
def test_bad(archive: Archive, reason: str, until: datetime | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        held(archive, "one", reason, until)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"not json", b'{"label": "one", "reason": "x", "until": "soon"}']
)
def test_a_damaged_hold_is_an_error_and_never_no_hold(archive: Archive, content: bytes) -> None:
    archive.store.put(hold_key(archive, "one"), content)
    with pytest.raises(ObjectDamaged):
        read_hold(archive, "one")


class ExpiringStore(Passing):
    """A real store on which a backup expires at the moment its hold is written."""

    def __init__(self, inner: Store, record: str) -> None:
        super().__init__(inner)
        self._record = record

    def put(self, key: str, data: bytes | Iterable[bytes], *, create: bool = False) -> None:
        self.inner.delete(self._record)
        self.inner.put(key, data, create=create)


def test_a_backup_that_expires_while_it_is_held(archive: Archive) -> None:
    store = ExpiringStore(archive.store, LAYOUT.backup_record("one"))
    with pytest.raises(NoBackup) as caught:
        held(archive_on(store), "one", "audit")
    assert str(caught.value) == 'backup "one" expired before it was held\nHINT: pgproof list NAME'
    assert list(archive.store.list(LAYOUT.holds)) == []
