"""Data Docs in a real browser: what somebody wrote into a row is text there, and runs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas
import pytest

from pgproof.config import ClusterConfig
from pgproof.validation.expectations.data_docs import drills
from pgproof.validation.expectations.suite import Expected
from pgproof.validation.expectations.suites import ExpectationRun
from tests.ui.conftest import CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VALUE = "<img src=x onerror=alert(7)>"
COLUMN = "<svg onload=alert(8)>"
LINK = '<a href="https://evil.example/">proven</a><meta http-equiv="refresh" content="0;url=//evil.example">'
DATABASE = "a/../b<script>alert(9)</script>"


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Data Docs of a drill whose rows, columns and expectations are hostile."""
    docs = tmp_path_factory.mktemp("state") / "data-docs" / "main" / "20261123T212715112664Z"
    run = ExpectationRun(ClusterConfig(name="main", dsn="", repository="main"), docs)
    rows = pandas.DataFrame({COLUMN: [VALUE, LINK, "a", "\x1b[31mk$ ${x}"], "key": [1, 2, 3, 4]})
    wanted = [
        Expected(
            "expect_column_values_to_be_in_set",
            {"column": COLUMN, "value_set": ["a", VALUE + "!"]},
            key=("key",),
        ),
        Expected("expect_column_values_to_match_regex", {"column": COLUMN, "regex": f"^{VALUE}?$"}),
        Expected("expect_column_values_to_be_in_set", {"column": "no" + VALUE, "value_set": []}),
    ]
    run._judge(f"main-{DATABASE}", wanted, lambda batches: batches.frame("rows", rows))
    assert run._outcome().data_docs == str(docs / "index.html")
    return docs


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def seen(page: Page, path: Path) -> tuple[str, list[str]]:
    """The text of a page as it is shown, and what it did: dialogs and requests for other files."""
    did: list[str] = []
    page.on("dialog", lambda dialog: (did.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: did.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    assert page.url == path.as_uri()
    return page.inner_text("body"), [what for what in did if what != path.as_uri()]


def test_a_value_is_text_and_runs_nothing(docs: Path, browser: Browser) -> None:
    (result,) = (docs / "validations").rglob("*.html")
    text, did = seen(page := browser.new_page(), result)
    assert did == []
    for part in (VALUE, VALUE + "!", COLUMN, LINK, "\\u001b[31mk$ ${x}", f"no{VALUE}"):
        assert part in text, part
    assert page.locator("img, svg, script, a[href*=evil]").count() == 0
    opened = docs / "index.html"
    text, did = seen(page, opened)
    assert (did, VALUE in text) == ([], True)
    page.get_by_role("link", name="main-a%2F").click()  # the suite, of a database whose name is no path
    page.wait_for_url(result.as_uri())


def test_what_is_not_disarmed_is_forbidden(docs: Path, browser: Browser) -> None:
    """The policy stands by itself: a value that a new Great Expectations puts elsewhere runs nothing either."""
    (result,) = (docs / "validations").rglob("*.html")
    copy = docs / "copy.html"
    copy.write_text(result.read_text().replace("</body>", f"{VALUE}{COLUMN}<script>alert(1)</script></body>"))
    _, did = seen(browser.new_page(), copy)
    copy.unlink()
    assert [what for what in did if what.startswith("dialog")] == []


def test_nobody_else_can_read_the_pages(docs: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in docs.parent.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {one.stat().st_mode & 0o777 for one in (docs, docs.parent, docs.parents[1])} == {0o700}
    assert [drill.drill for drill in drills(docs.parent)] == [docs.name]


def test_an_older_directory_is_closed(tmp_path: Path) -> None:
    docs = tmp_path / "data-docs" / "main" / "20261123T212715112664Z"
    docs.parent.mkdir(parents=True)
    docs.parent.chmod(0o755)
    ExpectationRun(ClusterConfig(name="main", dsn="", repository="main"), docs)
    assert (docs.parent.stat().st_mode & 0o777, docs.stat().st_mode & 0o777) == (0o700, 0o700)
    shutil.rmtree(docs)
