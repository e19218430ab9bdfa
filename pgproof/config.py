"""The configuration: pgproof.toml read once into a frozen tree; secrets are references, never values."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from pgproof.errors import ConfigError
from pgproof.faults import told
from pgproof.location import DEFAULT_PATH, config_path
from pgproof.quantity import duration, size
from pgproof.schedule import SchedulesConfig
from pgproof.secret import reference
from pgproof.section import Section

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_STATE = "~/.local/state/pgproof"
STATE = Path(DEFAULT_STATE).expanduser()


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Seconds = Annotated[int, BeforeValidator(duration)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Bytes = Annotated[int, BeforeValidator(size)]
SecretReference = Annotated[str, BeforeValidator(reference)]


class RepositoryConfig(Section):
    """Where backups and WAL are stored."""

    url: str = Field(description="file:///path, s3://bucket/prefix, gs://, az:// or memory://")
    endpoint: str | None = Field(None, description="of an S3 store that is not AWS")
    region: str | None = None
    access_key_id: SecretReference | None = None
    secret_access_key: SecretReference | None = None
    credentials: SecretReference | None = Field(None, description='"block:aws-credentials/NAME"')
    compression_level: int = Field(3, ge=1, le=19)
    age_recipients: tuple[str, ...] = Field((), description="X25519 recipients; encrypt when given")
    age_identity: SecretReference | None = Field(None, description="needed to restore what is encrypted")
    used_limit: float = Field(85.0, ge=0, le=100, description="per cent of a directory's file system; 0 none")
    size_limit: Bytes = Field(0, description="bytes stored in the whole repository; 0 is no limit")
    patience: Seconds = Field(
        300, ge=0, description="how long a request to an object store is tried again; 0 is about a second"
    )
    total_patience: Seconds = Field(1800, ge=0, description="how long a command waits so in all")
    command_timeout: Seconds = Field(0, ge=0, description="of a whole command on an object store; 0 is none")
    answer_timeout: Seconds = Field(30, ge=1, description="without a byte, of a request to an object store")
    least_rate: Bytes = Field(
        16 << 10, description="bytes a second below which a request to an object store ends; 0 is none"
    )
    retry_buffer: Bytes = Field(
        1 << 30, description="of an upload, kept on disk (TMPDIR) to send it again; 0 keeps none"
    )

    def model_post_init(self, _: object) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key are given together, or neither")


class RetentionConfig(Section):
    """How many backups are kept, and how far back WAL allows any point in time."""

    daily: int = Field(7, ge=0)
    weekly: int = Field(4, ge=0)
    monthly: int = Field(12, ge=0)
    wal_window: Seconds = Field(7 * 86400, description="any point in time as far back as this")
    approve_above: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the backups, or of their bytes, above which somebody must agree",
    )


class TargetsConfig(Section):
    """What recovery is allowed to cost."""

    rpo: Seconds = Field(300, description="newest commit not yet in the repository, seconds")
    rto: Seconds = Field(3600, description="from the decision to restore to a server that answers, seconds")
    backup_age: Seconds = Field(26 * 3600, ge=1, description="of the newest backup, seconds")


class BackupConfig(Section):
    """How base backups are taken."""

    volume_size: Bytes = Field(128 << 20, description="raw bytes of a tar volume; files are never split")
    workers: int = Field(2, ge=1, le=32)
    checkpoint: Literal["fast", "spread"] = "fast"
    max_rate: int = Field(
        0, ge=0, le=1 << 20, description="kB/s the server may send, 32 or more; 0 is no limit"
    )
    archive_timeout: Seconds = Field(300, description="how long to wait for the backup's last WAL segment")

    def model_post_init(self, _: object) -> None:
        if 0 < self.max_rate < 32:  # MAX_RATE_LOWER of PostgreSQL's basebackup.c
            raise ValueError("max_rate is 0 or at least 32 kB/s")


class WalConfig(Section):
    """How WAL reaches the archive and comes back, and how the archive is checked."""

    workers: int = Field(2, ge=1, le=32, description="WAL files stored, fetched or checked at once")
    quorum: int = Field(0, ge=0, description="repositories that must have a file; 0 is every one")
    push_timeout: Seconds = Field(60, description="how long one wal push may take")
    fetch_timeout: Seconds = Field(600, description="how long one wal fetch may take")
    prefetch_size: Bytes = Field(256 << 20, description="WAL fetched ahead of recovery; 0 fetches none")
    linger: Seconds = Field(600, description="how long the pusher stays when there is nothing to push")
    slot: str = Field("pgproof", pattern=r"^[a-z0-9_]{1,63}$", description="of wal receive")
    partial_interval: Seconds = Field(
        10, description="received part of a segment is stored so often; 0 never"
    )
    receive: bool = Field(False, description="pgproof deploy schedules wal receive")
    synchronous: bool = Field(False, description="wal receive confirms what is on its own disk")
    recheck_after: Seconds = Field(30 * 86400, description="a checked segment is read again after this")


# To a database at least, to fence and count it: its snapshot, one session that looks at definitions, one that counts,
# and one that the server still counts although it is closed
DRILL_CONNECTIONS = 4


class DrillConfig(Section):
    """How restores are tested."""

    scratch_directory: Path | None = Field(
        None, description="default: scratch in state_directory; of root: /var/lib/pgproof/scratch"
    )
    run_as: str | None = Field(
        None, description="as root: account of scratch servers, and owner of restored files"
    )
    candidates: int = Field(6, ge=1, le=50, description="fences tried at once for one exact cut")
    connections: int = Field(
        24, ge=1, le=1000, description="to the source at once, to fence as many databases"
    )
    workers: int = Field(2, ge=1, le=32, description="connections that count and fingerprint")
    hold_limit: Seconds = Field(4 * 3600, ge=0, description="of the source's snapshots; 0 is none")
    archive_timeout: Seconds = Field(120, description="how long to wait for the fence's WAL segment")
    replay_timeout: Seconds = Field(6 * 3600)
    statement_timeout: Seconds = Field(3600, description="of one table's fingerprint")
    sample_above: Bytes = Field(0, description="sample larger tables by block; 0 reads every table whole")
    sample_percent: float = Field(10.0, gt=0, le=100)
    sample_tables: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(
        {},
        description='"database.schema.table" to per cent of its blocks, whatever its size; 100 reads it whole',
    )
    exclude_databases: tuple[str, ...] = Field((), description="named as not checked")
    exclude_tables: tuple[str, ...] = Field((), description='"database.schema.table", named as not checked')
    checks: tuple[Literal["log", "checksums", "amcheck", "indexes", "dump"], ...] = Field(
        ("log", "checksums", "amcheck", "indexes"), description="made besides the comparison"
    )
    as_restored: int = Field(
        1, ge=0, description="one drill in so many restores as a user is told to, too; 0 none"
    )
    targets: int = Field(2, ge=0, le=50, description="recovery targets tried before the cut; 0 tries none")
    check_timeout: Seconds = Field(3600, description="of a check, in each database", ge=1)
    index_timeout: Seconds = Field(300, description="of asking one index for its rows", ge=1)
    parent_check: bool = Field(False, description="amcheck also looks for every row from the root down")
    preload_libraries: tuple[str, ...] = Field((), description="that recovery itself needs")
    stale_after: Seconds = Field(8 * 86400, ge=1, description="a proof or verification is stale after this")


class PgBackRestConfig(Section):
    """Where pgBackRest keeps backups of the same cluster."""

    name: str = Field(description="that pgBackRest gives the cluster: the section of pgbackrest.conf")
    config: Path | None = Field(None, description="path of pgbackrest.conf")
    repository: int | None = Field(None, ge=1, description="number of the repository; none takes every one")


class BarmanConfig(Section):
    """Where Barman keeps backups of the same cluster."""

    server: str = Field(description="that Barman calls the cluster")
    config: Path | None = Field(None, description="path of barman.conf")


class DirectoryConfig(Section):
    """Where base backups of the same cluster lie, made with pg_basebackup, and WAL that a script kept."""

    backups: Path = Field(description="a backup, plain or tar, or a directory of such")
    wal: Path = Field(description="WAL files, plain or compressed")


class ExpectationConfig(Section):
    """One Great Expectations expectation, run on the restored database."""

    database: str
    type: str = Field(description="such as expect_column_values_to_not_be_null")
    table: str | None = None
    query: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)

    def model_post_init(self, _: object) -> None:
        if (self.table is None) == (self.query is None):
            raise ValueError("an expectation names either a table or a query")


class SqlCheckConfig(Section):
    """One SQL check of the user's own, run on the restored database."""

    name: str = Field(min_length=1)
    database: str
    sql: str
    expect: bool | int | float | str = Field("rows", description='"rows", "no rows", or the one value')
    statement_timeout: Seconds = Field(300, ge=1)


class ClusterConfig(Section):
    """One PostgreSQL cluster to protect."""

    name: str = ""
    dsn: str = Field(repr=False)
    password: SecretReference | None = None
    repository: str = "main"
    system_identifier: int | None = None
    bin_directory: Path | None = None
    copies: tuple[str, ...] = Field((), description="other repositories that get every WAL file, too")
    standbys: tuple[str, ...] = Field((), repr=False, description="DSNs of servers asked for missing WAL")
    backup: BackupConfig = BackupConfig()
    wal: WalConfig = WalConfig()
    retention: RetentionConfig = RetentionConfig()
    targets: TargetsConfig = TargetsConfig()
    drill: DrillConfig = DrillConfig()
    schedules: SchedulesConfig = SchedulesConfig()
    pgbackrest: PgBackRestConfig | None = None
    barman: BarmanConfig | None = None
    directory: DirectoryConfig | None = None
    suite: Path | None = Field(
        None, description="Great Expectations suite; default: expectations-NAME.json beside pgproof.toml"
    )
    expectations: tuple[ExpectationConfig, ...] = ()
    checks: tuple[SqlCheckConfig, ...] = ()
    _state: Path = PrivateAttr(STATE)

    @property
    def scratch(self) -> Path:
        """Where drills restore: a place of ours alone, as whoever can write there can have any file replaced.

        Root's home is closed to the account of PostgreSQL's server.
        """
        if self.drill.scratch_directory is not None:
            return self.drill.scratch_directory.absolute()
        return Path("/var/lib/pgproof/scratch") if os.geteuid() == 0 else self._state.absolute() / "scratch"


class AlertsConfig(Section):
    """Whom Prefect tells what happened."""

    notify: Names = Field((), description='notification blocks: "slack-webhook/oncall"')
    file: Path | None = Field(None, description="of alerts, instead of those that pgproof brings")


class Config(Section):
    """All of pgproof.toml."""

    path: Path = Path(DEFAULT_PATH)
    state_directory: Path = Field(Path(DEFAULT_STATE))
    alerts: AlertsConfig = AlertsConfig()
    repositories: dict[str, RepositoryConfig] = Field(default_factory=dict)
    clusters: dict[str, ClusterConfig] = Field(default_factory=dict)

    def cluster(self, name: str | None = None) -> ClusterConfig:
        """The cluster of this name, or the only one.

        Raises:
            ConfigError: there is none, with the nearest name as the hint.
        """
        if name is None and len(self.clusters) == 1:
            return next(iter(self.clusters.values()))
        if name in self.clusters:
            return self.clusters[name]
        known = ", ".join(f'"{known}"' for known in self.clusters) or "none"
        if name is None:
            raise ConfigError("no cluster was named", f"{self.path} has: {known}.", "name one with --cluster")
        near = difflib.get_close_matches(name, self.clusters, n=1, cutoff=0.4)
        hint = f'did you mean "{near[0]}"?' if near else f"pgproof init {name} --dsn ... --repository ..."
        raise ConfigError(f'cluster "{name}" is not configured', f"{self.path} has: {known}.", hint)

    def repository_of(self, cluster: ClusterConfig) -> RepositoryConfig:
        return self.repositories[cluster.repository]

    def copies_of(self, cluster: ClusterConfig) -> dict[str, RepositoryConfig]:
        """The other repositories that get every WAL file of a cluster, by name."""
        return {name: self.repositories[name] for name in cluster.copies}

    def suite_of(self, cluster: ClusterConfig) -> Path:
        """The path of a cluster's suite; a relative one is beside pgproof.toml."""
        return self.path.absolute().parent / (cluster.suite or f"expectations-{cluster.name}.json")

    @property
    def state(self) -> Path:
        return self.state_directory.expanduser()


def find_path(given: str | Path | None = None) -> Path:
    """The path of the configuration: ``--config``, else PGPROOF_CONFIG, else ./pgproof.toml."""
    return Path(config_path(given))


def load(given: str | Path | None = None) -> Config:
    """Read and check the configuration.

    Args:
        given: the path, when ``--config`` named one.

    Raises:
        ConfigError: the file is missing, is not TOML, or a value is wrong; every wrong value is named.
    """
    path = find_path(given)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f'configuration "{path}" is not valid TOML', "It is not UTF-8 text.") from error
    except OSError as error:
        raise ConfigError(
            f'cannot read configuration "{path}"',
            f"{error.strerror}.",
            "pgproof init NAME --dsn ... --repository file:///... writes one",
        ) from error
    try:
        return parse(tomllib.loads(text), path)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f'configuration "{path}" is not valid TOML', f"{error}.") from error


def parse(tree: dict[str, Any], path: Path) -> Config:
    """Check a tree as tomllib reads it.

    Raises:
        ConfigError: with one line for every wrong value.
    """
    try:
        clusters = {name: {**cluster, "name": name} for name, cluster in tree.get("clusters", {}).items()}
        config = Config.model_validate({**tree, "clusters": clusters, "path": path})
    except ValidationError as error:
        raise ConfigError(f'configuration "{path}" has wrong values', f"{told(error, Config)}.") from error
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f'configuration "{path}" has wrong values', "clusters and repositories are tables of tables."
        ) from error
    for name, cluster in config.clusters.items():
        cluster._state = config.state
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f'cluster name "{name}" is not usable',
                "A name has lower-case letters, digits, _ and -, and starts with a letter or digit.",
            )
        _check_repositories(config, cluster)
    return config


def _check_repositories(config: Config, cluster: ClusterConfig) -> None:
    """Refuse a repository that is not there or named twice, and a quorum that there are too few for."""
    named = (cluster.repository, *cluster.copies)
    for repository in named:
        if repository not in config.repositories:
            raise ConfigError(
                f'cluster "{cluster.name}" names repository "{repository}", which is not configured',
                f"{config.path} has: {', '.join(config.repositories) or 'none'}.",
                f'add a section [repositories.{repository}] with url = "file:///..."',
            )
    urls = [config.repositories[repository].url for repository in named]
    if len(set(urls)) < len(urls):
        raise ConfigError(
            f'cluster "{cluster.name}" names one repository twice',
            f"repository and copies lead to: {', '.join(urls)}.",
            "copies names repositories at other places",
        )
    if cluster.wal.quorum > len(named):
        raise ConfigError(
            f'cluster "{cluster.name}" has a quorum that it cannot reach',
            f"quorum is {cluster.wal.quorum}, and there are {len(named)} repositories.",
            "0 is every one of them",
        )
