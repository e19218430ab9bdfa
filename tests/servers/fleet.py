"""A fleet for the tests: several small sources in one pgproof.toml and one repository."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgproof.config import ClusterConfig
from pgproof.postgres.programs import account
from tests.servers.place import make_directory
from tests.servers.postgres import PGPROOF, PROJECT, Source

# nothing runs by itself, so that a test sees its own runs alone
QUIET = "".join(
    f'schedules.{flow} = "off"\n'
    for flow in (
        "base_backup",
        "incremental",
        "wal_gap_check",
        "restore_validation",
        "oldest_proof",
        "retention_pruning",
    )
)


@dataclass
class Member(Source):
    """One cluster of a fleet.

    Args:
        name: of the cluster.
        fleet: that it belongs to.
    """

    name: str = ""
    fleet: Fleet = field(kw_only=True, repr=False)

    @property
    def config_path(self) -> Path:
        return self.fleet.config_path

    @property
    def repository_path(self) -> Path:
        return self.fleet.root / "repository"

    @property
    def cluster(self) -> ClusterConfig:
        return self.config.cluster(self.name)

    @property
    def archive_command(self) -> str:
        variables = [f"PYTHONPATH={PROJECT}", f"PGPROOF_SPOOL={self.spool}"]
        options = ["--config", str(self.config_path), f"--cluster={self.name}"]
        return "exec " + shlex.join(["env", *variables, *PGPROOF, *options, "wal", "push"]) + ' "%p"'

    def write_config(self, *values: Any, **named: Any) -> None:
        """The fleet writes it."""
        assert not (any(values) or any(named.values())), "fleet.write_config has them"
        self.fleet.write_config()


@dataclass
class Fleet:
    """Sources that share a configuration.

    Args:
        root: directory of all of them.
        names: of the clusters.
    """

    root: Path
    names: tuple[str, ...]
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def config_path(self) -> Path:
        return self.root / "pgproof.toml"

    def write_config(self, **clusters: str) -> None:
        """(Re)write pgproof.toml.

        Args:
            clusters: name to lines of its section, besides those that it has anyway.
        """
        text = f'state_directory = "{self.root}/state"\n\n[repositories.main]\nurl = "file://{self.root}/repository"\n'
        for name in self.names:
            text += (
                f'\n[clusters.{name}]\ndsn = "host={self.root}/{name}/s user=pgproof dbname=postgres"\n'
                f'drill.scratch_directory = "{self.root}/{name}/scratch"\ndrill.targets = 0\n'
                f'drill.archive_timeout = "60s"\nbackup.archive_timeout = "60s"\nbackup.volume_size = "4MB"\n'
                f"{QUIET}{clusters.get(name, '')}\n"
            )
        self.config_path.write_text(text)


@contextlib.contextmanager
def running_fleet(*names: str, major: int = 17) -> Iterator[Fleet]:
    """Sources with a table each, for the time of a block."""
    root = make_directory()
    fleet = Fleet(root, names)
    assert account(None) is None, "the fleet's tests run as an unprivileged account"
    try:
        for number, name in enumerate(names):
            (root / name).mkdir()
            member = Member(major, root / name, name=name, fleet=fleet)
            fleet.members[name] = member
            member.create()
            member.sql(f"CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, {100 + number}) g")
            member.archive_now()
        yield fleet
    finally:
        for member in fleet.members.values():
            if hasattr(member, "server"):
                member.server.stop("immediate")
        shutil.rmtree(root, ignore_errors=True)
