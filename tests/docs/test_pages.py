"""What the pages name is there: links, modules, functions, tests, record fields, errors, exit codes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.alerts import automations, trial
from pgproof import errors
from pgproof.backups.age import BackupAge
from pgproof.backups.record import BackupRecord, Volume
from pgproof.backups.state import ProofAge
from pgproof.backups.verification import Verification
from pgproof.fleet.score import unread
from pgproof.gaps.check import WalCheck
from pgproof.gaps.gap import GapReport
from pgproof.repository.lease import Lease
from pgproof.repository.posix import PosixStore
from pgproof.repository.repository import StoredObject
from pgproof.repository.store import read
from pgproof.repository.usage import Usage
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.validation.as_restored import AsRestored
from pgproof.validation.fences.fence import DatabaseFence, Fence, TableContent
from pgproof.validation.proof import Proof
from pgproof.wal.checked import CheckedRun, write_memory
from tasks import events, fleet_card, lineage, proof_events, standing
from tasks.fleet import Outcome
from tests.docs.pages import PAGES, PROJECT, headings, inline_code, prose, table_under, tables, title
from tests.validation.test_proof import proof
from tests.wal.files import make_archive

FORMAT = PROJECT / "docs" / "repository-format.md"
ERRORS = PROJECT / "docs" / "errors.md"
README = PROJECT / "README.md"


# ---- links


def anchor(heading: str) -> str:
    """The anchor of a heading, as forges make it."""
    text = re.sub(r"[`*]", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)\)", prose(page))


LINKS = [(title(page), link) for page in PAGES for link in links(page)]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: value)
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    assert "://" not in link, "the documentation stands by itself"
    path, _, fragment = link.partition("#")
    target = (PROJECT / page).parent / path if path else PROJECT / page
    assert target.exists()
    if fragment:
        assert fragment in [anchor(heading) for heading in headings(target)]


def test_every_page_is_linked_from_another() -> None:
    reached = {(PROJECT / page).parent.joinpath(link.partition("#")[0]).resolve() for page, link in LINKS}
    decisions = PROJECT / "docs" / "decisions"
    assert decisions in reached
    alone = [title(page) for page in PAGES if page not in reached and page.parent != decisions]
    assert alone == ["README.md"]


# ---- names of the code


EVENTS = {events.GAP, events.REPAIRED, events.LAG, events.CHECKED, events.WHOLE, events.CURRENT}
EVENTS |= {proof_events.MADE, proof_events.FAILED, proof_events.STALE, proof_events.FRESH}
EVENTS |= {proof_events.RTO_BREACHED, proof_events.RTO_MET, proof_events.RPO_BREACHED, proof_events.RPO_MET}
EVENTS |= {proof_events.RESTORE_BROKEN, proof_events.RESTORE_WORKS}
EVENTS |= {fleet_card.PROTECTED, fleet_card.UNPROTECTED, fleet_card.SKIPPED, fleet_card.REACHED}
EVENTS |= {standing.OVERDUE, standing.RECENT, standing.ABOVE, standing.BELOW}
ASKED = {automations.SET, trial.TEST}  # by the command alerts, and not emitted by a flow
ASSETS = {lineage.REFERENCED, lineage.SUCCEEDED, lineage.FAILED}
PREFECT = PROJECT / "docs" / "prefect.md"
NAMES = sorted(
    {
        (title(page), name)
        for page in PAGES
        for code in inline_code(page)
        for name in re.findall(r"^(?:pgproof|tasks|flows|deployments)(?:\.\w+)+$", code)
        if not name.endswith((".toml", ".json", ".yaml", ".commands"))
        if name not in EVENTS | ASKED and not name.startswith(("pgproof.cluster.", "pgproof.alert."))
    }
)


def resolve(name: str) -> object:
    """The module, or what it holds, that a dotted name means."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module of {name}")


@pytest.mark.parametrize(("page", "name"), NAMES, ids=lambda value: value)
def test_a_name_of_the_code_exists(page: str, name: str) -> None:
    assert resolve(name) is not None


def test_every_event_is_documented_and_no_other() -> None:
    rows = [row for section, columns, rows in tables(PREFECT) if columns[0] == "event" for row in rows]
    assert {row[0].strip("`") for row in rows} == EVENTS | ASKED | ASSETS


def test_every_field_of_an_event_is_documented_and_no_other() -> None:
    found = WalCheck(
        GapReport(1, 1, None, None, (), (), damaged=(("x", "y"),)), archiver_failing="failed", rpo_seconds=1.0
    )
    emitted = events.wal_events("shop", found, [("a", "b")])
    for target in (1, 3600):
        check = replace(found, rpo_seconds=60.0, rpo_target=target)
        emitted += proof_events.rpo_events("shop", check)
        emitted += proof_events.proof_events("shop", proof(rto_target=target), "key")
    emitted += proof_events.proof_events("shop", proof(comparison=None), "key")
    for tried in (AsRestored(("it ended",)), AsRestored(phases={"replay": 1.0})):
        emitted += proof_events.proof_events("shop", proof(as_restored=tried), "key")
    emitted += events.wal_events(
        "shop", replace(found, report=GapReport(1, 1, None, None, (), ()), archiver_failing="")
    )
    proofs = ProofAge("", None, 2.0, 1.0), ProofAge("l", datetime.now(UTC), 1.0, 2.0)
    for age, used, newest in ((None, 99, proofs[0]), (1.0, 1, proofs[1])):
        usage = Usage("file:///x", 100 - used, 100, 85.0)
        emitted += standing.standing_events(
            "shop", standing.Standing(BackupAge(2, "l", None, age), usage, newest)
        )
    outcomes = Outcome("shop", "completed", seconds=1), Outcome("shop", "busy", command="pgproof fleet")
    for outcome in outcomes:
        event = fleet_card.cluster_event(outcome)
        assert event is not None
        emitted += [fleet_event_of(outcome), event]
    assert {event.name for event in emitted} == EVENTS
    rows = [row for _, columns, rows in tables(PREFECT) if columns[0] == "field" for row in rows]
    for event in emitted:
        _, kind, name = event.name.split(".")
        name = kind if kind in ("rto", "rpo") else name
        shown_for = {
            field
            for row in rows
            if row[1] == "all" or name in row[1].split(", ")
            for field in re.findall(r"`(\w+)`", row[0])
        }
        assert shown_for == set(event.payload), event.name


def fleet_event_of(outcome: Outcome) -> events.Event:
    moment = datetime.now(UTC)
    score = unread("shop", moment, errors.RepositoryMissing("there is none"))
    return fleet_card.fleet_event(fleet_card.FleetCard(moment, (outcome,), (score,)))


def test_paths_that_are_named_exist() -> None:
    forms = re.compile(r"(?<![\w/.])((?:tests|docs|tasks|flows|deployments|pgproof)/[\w./-]*\w/?)")
    for page in PAGES:
        for path in forms.findall(prose(page)):
            assert (PROJECT / path).exists(), f"{title(page)} names {path}"


def test_every_package_of_the_engine_is_in_the_architecture() -> None:
    page = PROJECT / "docs" / "architecture.md"
    packages = {f"pgproof.{path.parent.name}" for path in (PROJECT / "pgproof").glob("*/__init__.py")}
    packages |= {
        f"pgproof.{path.stem}" for path in (PROJECT / "pgproof").glob("*.py") if path.stem != "__init__"
    }
    assert packages <= set(inline_code(page))


# ---- the format


def shown(heading: str) -> set[str]:
    return {row[0].strip("`") for row in table_under(FORMAT, heading)}


def test_fields_of_a_backup_record() -> None:
    moment = datetime(2026, 11, 23, tzinfo=UTC)
    record = BackupRecord(
        "l", "c", 1, 170010, 1, LSN(1), LSN(2), moment, moment, 1 << 20, (), StoredObject("k", 1, "s")
    )
    assert shown("backup.json") == set(record.as_dict())
    volumes = _tables_under("backup.json")[1]
    assert {row[0].strip("`") for row in volumes} == {field.name for field in fields(Volume)}


def test_fields_of_a_verification() -> None:
    assert shown("verification.json") == {field.name for field in fields(Verification)}


def test_fields_of_a_fence() -> None:
    assert shown("fences") == {field.name for field in fields(Fence)}
    databases = _tables_under("fences")[1]
    assert {row[0].strip("`") for row in databases} == {field.name for field in fields(DatabaseFence)}
    content = next(row[2] for row in databases if row[0] == "`tables`")
    assert {field.name for field in fields(TableContent)} <= set(re.findall(r"`(\w+)`", content))


def test_fields_of_a_proof() -> None:
    assert shown("proofs") == {field.name for field in fields(Proof)}


def test_fields_of_a_lease(tmp_path: Path) -> None:
    store = PosixStore(tmp_path / "r")
    Lease(store, "a/lease.json", "a test").acquire()
    assert shown("lease.json") == set(re.findall(r'"(\w+)": ', read(store, "a/lease.json").decode()))


def test_fields_of_what_was_checked(tmp_path: Path) -> None:
    archive = make_archive(tmp_path)
    segment = WalSegment(1, 5, 1 << 20)
    run = CheckedRun(segment, segment, datetime(2026, 11, 23, tzinfo=UTC), True, 1.5)
    assert write_memory(archive, segment.size, [run]) == ""
    tree = archive.read_json(archive.layout.wal_checked)
    assert shown("wal-checked.json") == set(tree)
    runs = _tables_under("wal-checked.json")[1]
    assert {row[0].strip("`") for row in runs} == set(tree["runs"][0])


def _tables_under(heading: str) -> list[list[list[str]]]:
    return [rows for section, _, rows in tables(FORMAT) if section == heading]


INVARIANTS = (*range(1, 8), 9)


def test_the_invariants_are_those_of_the_architecture() -> None:
    page = PROJECT / "docs" / "architecture.md"
    rows = [row for section, _, rows in tables(page) if section == "Invariants" for row in rows]
    numbered = re.findall(
        r"^(\d)\. ", prose(FORMAT).split("## Invariants")[1].split("## Stores")[0], re.MULTILINE
    )
    assert [row[0] for row in rows] == numbered == [str(number) for number in INVARIANTS]


@pytest.mark.parametrize("number", INVARIANTS)
def test_every_invariant_has_a_test_that_carries_its_number(number: int) -> None:
    form = re.compile(rf"invariants?[_ ](?:\d, )*{number}\b|invariant_{number}_")
    files = [path for path in (PROJECT / "tests").rglob("test_*.py") if path.parent != Path(__file__).parent]
    assert any(form.search(path.read_text()) for path in files)


# ---- errors and exit codes


CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.PgproofError) and value is not errors.PgproofError
]


@pytest.mark.skipif(not ERRORS.exists(), reason="docs/errors.md is not written yet")
@pytest.mark.parametrize("error", CLASSES, ids=lambda value: value.__name__)
def test_every_error_is_documented_with_its_code(error: type[errors.PgproofError]) -> None:
    line = next(
        (line for line in ERRORS.read_text().splitlines() if line.startswith(f"| `{error.__name__}` |")), ""
    )
    assert line, f"docs/errors.md lacks {error.__name__}"
    assert f"| {error.exit_code} |" in line


@pytest.mark.parametrize("error", CLASSES, ids=lambda value: value.__name__)
def test_every_exit_code_is_in_the_readme(error: type[errors.PgproofError]) -> None:
    codes = set()
    for row in table_under(README, "Exit codes"):
        first, _, last = row[0].partition(" to ")
        codes |= set(range(int(first), int(last or first) + 1))
    assert error.exit_code in codes


def test_error_names_in_the_runbooks_exist() -> None:
    known = {error.__name__ for error in CLASSES}
    for page in (PROJECT / "docs" / "runbooks").glob("*.md"):
        cells = [code for code in inline_code(page) if re.fullmatch(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+", code)]
        assert set(cells) <= known, title(page)


def test_codes_beside_error_names_in_the_runbooks_are_theirs() -> None:
    known = {error.__name__: error.exit_code for error in CLASSES}
    for page in (PROJECT / "docs" / "runbooks").glob("*.md"):
        for _, columns, rows in tables(page):
            if columns[:2] != ["error", "code"]:
                continue
            for row in rows:
                names = [name for name in re.findall(r"`(\w+)`", row[0]) if name in known]
                assert [str(known[name]) for name in names] == row[1].split(", "), row


# ---- form


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_a_page_fits_on_the_screen_and_ends_with_a_newline(page: Path) -> None:
    text = page.read_text()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    lines = prose(page).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
    assert [line for line in lines if line != line.rstrip()] == []
