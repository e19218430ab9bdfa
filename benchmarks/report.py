"""The report: tables of medians as Markdown, with what is needed to judge them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.series import Section, Series


def render(
    sections: Sequence[Section],
    facts: Iterable[tuple[str, str]],
    versions: Iterable[tuple[str, str]],
    left_out: Sequence[tuple[str, str]],
    further: str,
) -> str:
    """The whole page.

    Args:
        sections: the tables.
        facts: of the machine and the run.
        versions: of everything that was measured.
        left_out: tools that were not measured, each with the reason.
        further: output of other scripts, already Markdown.
    """
    parts = [
        "# WAL, measured",
        "",
        "Made by `make bench`; benchmarks/README.md says what each row means.",
        "",
    ]
    parts += [*_facts("machine and run", facts), *_facts("program", versions)]
    for section in sections:
        parts += _section(section)
    if left_out:
        parts += ["## Not measured", "", *(f"- {name}: {reason}" for name, reason in left_out), ""]
    if further:
        parts += [further.strip(), ""]
    return "\n".join(parts)


def _facts(title: str, facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in facts), ""]


def _section(section: Section) -> list[str]:
    better = "more is better" if section.higher_is_better else "less is better"
    base = next(
        (series for series in section.series if series.name == section.against and series.values), None
    )
    lines = [f"## {section.title}", "", f"{section.unit}, {better}.", *section.notes, ""]
    lines += [f"| | median | min to max | n | ratio to {section.against} |", "|---|---:|---:|---:|---:|"]
    return [*lines, *(_row(series, base) for series in section.series), ""]


def _row(series: Series, base: Series | None) -> str:
    if not series.values:
        return f"| {series.name} | {_cell(series.failure)} | | 0 | |"
    reach = f"{number(min(series.values))} to {number(max(series.values))}"
    ratio = f"{series.median / base.median:.2f}" if base is not None and base.median else ""
    return f"| {series.name} | {number(series.median)} | {reach} | {len(series.values)} | {ratio} |"


def number(value: float) -> str:
    """Three digits that count: more would be noise."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
