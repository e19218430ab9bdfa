"""The tests that a change is most likely to break, as far as three minutes go: ``make quick``.

A test file is near a changed module when few imports lie between them. The nearest come first, and those that would
take the run beyond its time are named and left to ``make test``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tests.order import recorded

ROOT = Path(__file__).parents[1]
SECONDS = 240.0  # of tests; two workers at once need about half of it
ALWAYS = ("tests/test_layers.py", "tests/docs/test_pages.py")
_FOLDERS = ("pgproof", "tasks", "flows", "deployments", "tests")


def changed(base: str) -> set[str]:
    """The files that differ from a commit, with those that git does not know yet."""
    git = ("git", "-C", str(ROOT))
    differ = subprocess.check_output([*git, "diff", "--name-only", base], text=True)
    new = subprocess.check_output([*git, "ls-files", "--others", "--exclude-standard"], text=True)
    return set(differ.splitlines()) | set(new.splitlines())


def distances(files: set[str]) -> dict[str, int]:
    """Test file to the number of imports between it and the nearest changed file."""
    importers: dict[str, set[str]] = {}
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in _imported(path):
                importers.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    reached = dict.fromkeys(files, 0)
    queue = deque(files)
    while queue:
        path = queue.popleft()
        for importer in importers.get(path, ()):
            if importer not in reached:
                reached[importer] = reached[path] + 1
                queue.append(importer)
        if path.endswith("conftest.py"):  # nobody imports it, and all below it use it
            for below in sorted((ROOT / path).parent.rglob("test_*.py")):
                reached.setdefault(below.relative_to(ROOT).as_posix(), reached[path] + 1)
    return {path: far for path, far in reached.items() if Path(path).name.startswith("test_")}


def choose(far: dict[str, int], seconds: dict[str, float]) -> tuple[list[str], list[str]]:
    """The files to run, and those that there is no time for.

    Args:
        far: of each test file.
        seconds: that each took; one that is not known yet runs.
    """
    left, taken, over = SECONDS, [], []
    for path in sorted(far, key=lambda path: (far[path], seconds.get(path, 0.0))):
        cost = seconds.get(path, 0.0)
        (taken if cost <= left else over).append(path)
        left -= cost if cost <= left else 0.0
    return taken, over


def _imported(path: Path) -> Iterator[str]:
    """The files of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = ROOT / name.replace(".", "/")
            for found in (file.with_suffix(".py"), file / "__init__.py"):
                if found.exists():
                    yield found.relative_to(ROOT).as_posix()


def main() -> None:
    """Print the files to run, one per line."""
    files = changed(sys.argv[1])
    far = distances(files) | {path: 0 for path in ALWAYS}
    far |= {path: 0 for path in files if Path(path).name.startswith("test_") and (ROOT / path).exists()}
    taken, over = choose(far, recorded())
    if over:
        print(f"no time for {len(over)} more files: {' '.join(sorted(over))}", file=sys.stderr)
    print("\n".join(sorted(taken)))


if __name__ == "__main__":
    main()
