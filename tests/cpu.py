"""Where the suite's CPU goes: ``make profile`` runs it with this plugin, which counts every process of a worker.

A worker enters a control group (cpuacct, version 1) of its own, so that servers and commands that it starts are
counted wherever they went. What a server does in the background is counted for the test that ran meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.postgres.programs import ending_with_us

GROUPS = Path("/sys/fs/cgroup/cpuacct/pgproof-tests")  # made by `make profile`, which is root
PLACE = "PGPROOF_CPU_PROFILE"  # directory for a file of each worker
_LAUNCHER = len(ending_with_us(["true"])) - 1


class _Meter:
    """What the processes of this group have used.

    Args:
        group: directory of the control group.
    """

    def __init__(self, group: Path) -> None:
        self.group = group

    def read(self) -> tuple[float, float, float]:
        """User, system and elapsed seconds since some moment."""
        user, system = (int((self.group / f"cpuacct.usage_{kind}").read_text()) for kind in ("user", "sys"))
        return user / 1e9, system / 1e9, time.monotonic()


class _Profile:
    """Counts by file, phase and fixture."""

    def __init__(self, meter: _Meter) -> None:
        self.meter, self.start = meter, meter.read()
        self.used: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
        self.programs: Counter[str] = Counter()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            words = [os.fsdecode(word) for word in arguments[1]] if not isinstance(arguments[1], str) else []
            start = _LAUNCHER if words[:1] == ["setpriv"] else 0  # what the engine starts its programs with
            self.programs[" ".join(Path(word).name for word in words[start : start + 3])] += 1

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._wrap(f"file {item.location[0]}"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        return (yield from self._wrap("phase setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._wrap(f"test {item.nodeid}"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        return (yield from self._wrap("phase teardown"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        return (yield from self._wrap(f"fixture {fixturedef.argname} {fixturedef.baseid or '.'}"))

    def _wrap(self, name: str) -> Any:
        before = self.meter.read()
        try:
            return (yield)
        finally:
            for index, (old, new) in enumerate(zip(before, self.meter.read(), strict=True)):
                self.used[name][index] += new - old
            self.used[name][3] += 1

    def pytest_sessionfinish(self) -> None:
        self.used["all"] = [new - old for old, new in zip(self.start, self.meter.read(), strict=True)] + [1]
        name = os.environ.get("PYTEST_XDIST_WORKER", "main")
        text = json.dumps({"used": self.used, "programs": self.programs})
        Path(os.environ[PLACE], f"{name}.json").write_text(text)


def pytest_configure(config: pytest.Config) -> None:
    if PLACE not in os.environ or not (
        hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    ):
        return
    # other profiles of the machine have others
    group = GROUPS / f"{Path(os.environ[PLACE]).name}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    config.pluginmanager.register(_Profile(_Meter(group)), "pgproof-cpu")


def _table(place: Path, most: int = 40) -> str:
    used: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
    programs: Counter[str] = Counter()
    for path in place.glob("*.json"):
        found = json.loads(path.read_text())
        programs.update(found["programs"])
        for name, values in found["used"].items():
            used[name] = [old + new for old, new in zip(used[name], values, strict=True)]
    lines = []
    for kind in ("all", "phase", "file", "fixture", "test"):
        rows = sorted(
            ((n, v) for n, v in used.items() if n.split()[0] == kind), key=lambda r: -r[1][0] - r[1][1]
        )
        for name, (user, system, elapsed, count) in rows[:most]:
            lines.append(f"{user:8.1f} {system:7.1f} {elapsed:8.1f} {count:6.0f}  {name}")
    lines += [f"{count:8d}  {name}" for name, count in programs.most_common(most)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(_table(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40))
