"""Data Docs are Great Expectations' own pages about a drill, and an index of all drills of a cluster.

Great Expectations loads styles, scripts and a logo from a dozen places in the internet. A drill's machine has none, and
nobody may learn from such a request that a drill was looked at. So every reference to elsewhere is taken out of the
pages, and a small style takes its place.

The values of rows, and names, are data of whoever can write into the database, and some of Great Expectations'
templates put them into a page as they are. So they are disarmed before a page is made of them (``disarmed``), and
become text in it. A Content-Security-Policy in each page forbids what would still run or be loaded.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgproof.visible import visible

SITE = "pgproof"
_STATE = "drill.json"
_HELD = 60  # drills of one cluster that the index lists, and whose pages stay
_DRILL = re.compile(r"\d{8}T\d{12}Z")
_SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL | re.IGNORECASE)
_REMOTE = re.compile(
    r"<(?:link|img|iframe|source)\b[^>]*?(?:href|src)=[\"'](?:https?:)?//[^>]*>", re.IGNORECASE
)
_LINK = re.compile(
    r"<a\b[^>]*?href=[\"'](?:(?:https?:)?//|[./]*/expectations/)[^>]*>(.*?)</a>", re.DOTALL | re.IGNORECASE
)
_STATIC = re.compile(r"<link\b[^>]*?href=[\"'][^\"']*static/[^>]*>", re.IGNORECASE)
_IMAGE = re.compile(r"<img\b[^>]*?src=[\"'][^\"']*static/[^>]*>", re.IGNORECASE)
_POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'\">"
)
# What means something in HTML or in string.Template, as characters for private use that mean nothing anywhere
_MEANT = "&<>\"'`$"
_DISARMED = {ord(char): chr(0xF0000 + ord(char)) for char in _MEANT}
_TEXT = {0xF0000 + ord(char): f"&#{ord(char)};" for char in _MEANT}
_NOT_IN_PATHS = re.compile(r"[^\w .-]|(?<=\.)\.|^\.|\.$")
_IMPORT = re.compile(r"@import\s+(?:url\()?[\"']?(?:https?:)?//[^;]*;", re.IGNORECASE)
_STYLE = """
:root{color-scheme:light dark}body{font:14px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1180px;
padding:0 20px 40px;
color:#222;background:#fff}h1,h2,h3,h4,h5{line-height:1.25;margin:1.1em 0 .4em}a{color:#2563eb}
nav ol,ul.breadcrumb{list-style:none;
display:flex;gap:1em;padding:0}table{border-collapse:collapse;margin:.5em 0;max-width:100%}
td,th{border:1px solid #8885;
padding:4px 9px;text-align:left;vertical-align:top;overflow-wrap:anywhere}th{background:#8882}
pre,code{font-family:ui-monospace,
monospace;font-size:12.5px;white-space:pre-wrap}.badge,.code{background:#8882;border-radius:4px;padding:1px 5px}
.collapse{display:block}
.modal,.dropdown-menu,.navbar-toggler,button,.cta,#popover,.popover,.d-none{display:none}.met{color:#1a7f45;
font-weight:600}
.text-success,.fa-check-circle{color:#1a7f45}.unmet,.text-danger,.fa-times{color:#c1121f;font-weight:600}
.fa-check-circle:before{content:"✓"}.fa-times:before{content:"✗"}.fa-exclamation-triangle:before{content:"!"}
.alert{border-left:4px solid #8888;
padding:4px 12px}#ge-cta-footer,footer{display:none}
@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#17191c}a{color:#7aa7ff}
.met,.text-success{color:#5fd38d}
.unmet,.text-danger{color:#ff7b80}}
"""


@dataclass(frozen=True, slots=True)
class DrillDocs:
    """One line of the index.

    Args:
        drill: identifier of the fence, which is a time.
        success: whether every expectation was met.
        summary: one line.
    """

    drill: str
    success: bool
    summary: str


def site(docs: Path) -> dict[str, Any]:
    """The configuration of the pages below a directory, as Great Expectations wants it.

    Those of results alone: a page of a suite says nothing that they do not say.
    """
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "site_section_builders": {
            "expectations": "None",
            "profiling": "None",
        },
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
    }


def disarmed(tree: Any) -> Any:
    """A tree of JSON values for Great Expectations' templates: no text of it can be markup in the page.

    ``finish_docs`` makes the text of it again, whether or not a template has escaped it.
    """
    if isinstance(tree, dict):
        return {disarmed(key): disarmed(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [disarmed(item) for item in tree]
    return visible(tree).translate(_DISARMED) if isinstance(tree, str) else tree


def build_docs(context: Any) -> None:
    """Have Great Expectations make its pages, of disarmed results.

    Args:
        context: of Great Expectations, which nothing but the pages reads any more.
    """
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema

    store, schema = context.validation_results_store, ExpectationSuiteValidationResultSchema()
    for key in store.list_keys():
        store.add_or_update(key, schema.load(disarmed(store.get(key).to_json_dict())))
    context.build_data_docs()


def page_name(suite: str) -> str:
    """The name of a suite's page, which is a file in a directory of this name: what no path may hold is escaped."""
    return _NOT_IN_PATHS.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])), suite)


def finish_docs(docs: Path, success: bool, summary: str) -> Path | None:
    """Take every reference to elsewhere out of a drill's pages, and write the index of the cluster's drills.

    Args:
        docs: directory of the drill's pages, in that of its cluster.
        success: of the drill.
        summary: of the drill.

    Returns:
        the drill's index page; None when there are no pages.

    Raises:
        OSError: a page cannot be written.
    """
    pages = sorted(docs.rglob("*.html"))
    for page in pages:
        _write(page, offline(page.read_text("utf-8")))
    shutil.rmtree(
        docs / "static", ignore_errors=True
    )  # 4 MB of fonts and pictures that nothing shows any more
    drill = DrillDocs(docs.name, success, summary)
    _write(docs / _STATE, json.dumps(asdict(drill)))
    write_index(docs.parent)
    return _write_suites(docs, drill) if pages else None


def _write_suites(docs: Path, drill: DrillDocs) -> Path:
    """Write the drill's index: Great Expectations' own fills its tables by scripts, and would be empty without."""
    lines = ""
    for page in sorted(docs.glob("validations/**/*.html")):
        path = page.relative_to(docs)
        lines += f'<tr><td><a href="{quote(path.as_posix())}">{html.escape(path.parts[1])}</a></td></tr>'
    text = _head(f"Drill {drill.drill}")
    text += '<p><a href="../index.html">all drills</a></p>'
    text += f"<h1>Drill {drill.drill}</h1><table><tr><th>expectations</th><th>summary</th></tr>"
    text += f"<tr>{_word(drill)}</td><td>{html.escape(drill.summary)}</td></tr></table>"
    _write(docs / "index.html", f"{text}<table><tr><th>suite</th></tr>{lines}</table></body></html>\n")
    return docs / "index.html"


def _head(title: str) -> str:
    text = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{_POLICY}<title>{title}</title>'
    return f"{text}<style>{_STYLE}</style></head><body>"


def _word(docs: DrillDocs) -> str:
    return '<td class="met">✓ met' if docs.success else '<td class="unmet">✗ not met'


def offline(page: str) -> str:
    """A page without scripts and without anything loaded from elsewhere, where what was disarmed is text."""
    for form in (_SCRIPT, _REMOTE, _STATIC, _IMAGE, _IMPORT):
        page = form.sub("", page)
    page = _LINK.sub(r"\1", page)
    page = page.translate(_TEXT).replace("</head>", f"<style>{_STYLE}</style></head>", 1)
    before, head, after = page.partition("<head>")
    return f'{before}{head}<meta charset="utf-8">{_POLICY}{after}' if head else _head("") + page


def write_index(directory: Path) -> Path:
    """Write the page that lists a cluster's drills, the newest first, and remove the pages of very old ones."""
    found = sorted(drills(directory), key=lambda docs: docs.drill, reverse=True)
    for old in found[_HELD:]:
        shutil.rmtree(directory / old.drill, ignore_errors=True)
    name = html.escape(directory.name)
    lines = "".join(map(_line, found[:_HELD]))
    head = "<tr><th>drill (UTC)</th><th>expectations</th><th>summary</th></tr>"
    text = _head(f"Drills of {name}") + f"<h1>Drills of {name}</h1>"
    text += "<p>What Great Expectations says of each restored copy. The proof is in the repository.</p>"
    _write(directory / "index.html", f"{text}<table>{head}{lines}</table></body></html>\n")
    return directory / "index.html"


def drills(directory: Path) -> Iterator[DrillDocs]:
    """The drills of a cluster that have pages; what cannot be read is left out."""
    for path in directory.glob(f"*/{_STATE}"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            tree = json.loads(path.read_text("utf-8"))
            if _DRILL.fullmatch(path.parent.name):
                yield DrillDocs(path.parent.name, bool(tree["success"]), str(tree["summary"]))


def _line(docs: DrillDocs) -> str:
    at = datetime.strptime(docs.drill, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    word = _word(docs)
    link = f'<a href="{docs.drill}/index.html">{at:%Y-%m-%d %H:%M:%S}</a>'
    return f"<tr><td>{link}</td>{word}</td><td>{html.escape(docs.summary)}</td></tr>"


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    os.replace(fresh, path)
