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
    title: str = "WAL, measured",
    made: str = "make bench",
) -> str:
    """The whole page.

    Args:
        sections: the tables.
        facts: of the machine and the run.
        versions: of everything that was measured.
        left_out: tools that were not measured, each with the reason.
        further: output of other scripts, already Markdown.
        title: of the page.
        made: the command that makes it.
    """
    parts = [
        f"# {title}",
        "",
        f"Made by `{made}`; benchmarks/README.md says what each row means.",
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
    bases = [_named(section, name) for name in (section.against, *section.further)]
    ratios = [f"ratio to {name}" for name in (section.against, *section.further)]
    columns = ["", "median", "min to max", "n", *([section.also[0]] if section.also else []), *ratios]
    lines = [f"## {section.title}", "", f"{section.unit}, {better}.", *section.notes, ""]
    lines += [f"| {' | '.join(columns)} |".replace("|  |", "| |"), f"|---|{'---:|' * (len(columns) - 1)}"]
    return [*lines, *(_row(series, section, bases) for series in section.series), ""]


def _named(section: Section, name: str) -> Series | None:
    return next((series for series in section.series if series.name == name and series.values), None)


def _row(series: Series, section: Section, bases: Sequence[Series | None]) -> str:
    if not series.values:
        empty = " |" * (len(bases) + bool(section.also))
        return f"| {series.name} | {_cell(series.failure)} | | 0 |{empty}"
    cells = [
        series.name,
        number(series.median),
        f"{number(min(series.values))} to {number(max(series.values))}",
    ]
    cells.append(str(len(series.values)))
    if section.also:
        cells.append(number(series.median * section.also[1]))
    cells += [_ratio(series.median / base.median) if base and base.median else "" for base in bases]
    return f"| {' | '.join(cells)} |"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def number(value: float) -> str:
    """Three digits that count: more would be noise."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
