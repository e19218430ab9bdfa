"""The table of the faults that were really made, for benchmarks/results/faults.md.

::

    PGPROOF_FAULTS=/tmp/faults.jsonl make test-unprivileged PYTEST_ARGS="tests/faults -m slow"
    python -m tests.faults.table /tmp/faults.jsonl > benchmarks/results/faults.md
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path


def note(part: str, command: str, kind: str, outcome: str, met: int = 1) -> None:
    """Note one fault, where PGPROOF_FAULTS says; one that met nothing does not count."""
    path = os.environ.get("PGPROOF_FAULTS")
    if path and met:
        row = {"part": part, "command": command, "kind": kind, "outcome": outcome}
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(found: list[dict[str, str]], part: str) -> list[str]:
    """The Markdown table of one part: a row for each command, a column for each kind of fault."""
    chosen = [row for row in found if row["part"] == part]
    kinds = sorted({row["kind"] for row in chosen})
    count = Counter((row["command"], row["kind"]) for row in chosen)
    other = Counter((row["command"], row["outcome"]) for row in chosen)
    lines = [f"| command | {' | '.join(kinds)} | ended |", f"|---|{'---|' * (len(kinds) + 1)}"]
    for command in sorted({row["command"] for row in chosen}):
        cells = [str(count[command, kind]) for kind in kinds]
        ended = ", ".join(f"{outcome}: {n}" for (c, outcome), n in sorted(other.items()) if c == command)
        lines.append(f"| {command} | {' | '.join(cells)} | {ended} |")
    total = [str(sum(n for (_, found_kind), n in count.items() if found_kind == kind)) for kind in kinds]
    return [*lines, f"| all | {' | '.join(total)} | {len(chosen)} faults |"]


def main(*paths: str) -> None:
    found = [row for path in paths for row in rows(Path(path))]
    for part in sorted({row["part"] for row in found}):
        sys.stdout.write(f"## {part}\n\n" + "\n".join(table(found, part)) + "\n\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
