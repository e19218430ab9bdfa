"""A series: the values of one contender over the repetitions, taken in turns with the others."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class Series:
    """What one contender reached.

    Args:
        name: as the table shows it.
        values: one for each repetition, in the section's unit.
        failure: why there are none.
    """

    name: str
    values: tuple[float, ...] = ()
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Section:
    """One table.

    Args:
        title: what was measured.
        unit: of the values.
        higher_is_better: else lower is.
        against: name of the series that the others are compared with.
        series: its rows.
        notes: what one must know to read it.
        further: names of other series that there are ratios to.
        also: another unit, and how much of it one of the first is.
    """

    title: str
    unit: str
    higher_is_better: bool
    against: str
    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    also: tuple[str, float] | None = None


@dataclass(frozen=True)
class Contender:
    """A name and what gives one value of it; the argument is the number of the repetition."""

    name: str
    measure: Callable[[int], float]


def take_turns(what: str, contenders: Sequence[Contender], repetitions: int) -> tuple[Series, ...]:
    """Measure everyone once, then everyone again: a drift of the machine meets all alike.

    A contender that fails is not asked again, and the others go on.
    """
    values: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    failures: dict[str, str] = {}
    for number in range(repetitions):
        for contender in contenders:
            if contender.name in failures:
                continue
            began = time.perf_counter()
            try:
                value = contender.measure(number)
                values[contender.name].append(value)
                said = f"{value:.4g}"
            except BenchmarkError as error:
                failures[contender.name] = said = f"failed: {error}"
            took = time.perf_counter() - began
            print(
                f"{what} {number + 1}/{repetitions}: {contender.name}: {said} ({took:.1f} s)",
                file=sys.stderr,
                flush=True,
            )
    return tuple(
        Series(name, () if name in failures else tuple(found), failures.get(name, ""))
        for name, found in values.items()
    )
