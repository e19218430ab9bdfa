"""``pgproof deploy`` where there is no server, or not one that takes what it is given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.servers.postgres import run_pgproof
from tests.servers.s3 import free_ports

CONFIG = """
[repositories.main]
url = "file:///nowhere"
[clusters.main]
dsn = "host=/nowhere"
[clusters.second]
dsn = "host=/nowhere"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "pgproof.toml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A Prefect without a profile."""
    return {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": ""}


def test_no_server_is_named(config: str, environment: dict[str, str]) -> None:
    done = run_pgproof("deploy", "main", "--config", config, "--json", environment=environment)
    assert done.returncode == 2
    assert json.loads(done.stdout) == {
        "error": "ConfigError",
        "fact": "no Prefect server is named",
        "detail": "Without PREFECT_API_URL the deployments would go to a server that ends with this command.",
        "hint": "export PREFECT_API_URL=http://127.0.0.1:4200/api, or run pgproof up",
        "exit_code": 2,
    }


@pytest.mark.parametrize("by_profile", [False, True])
def test_a_server_that_does_not_answer(
    config: str, environment: dict[str, str], tmp_path: Path, by_profile: bool
) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/api"
    if by_profile:  # as `prefect config set PREFECT_API_URL=...` leaves it
        (tmp_path / "prefect").mkdir()
        (tmp_path / "prefect" / "profiles.toml").write_text(
            f'active = "site"\n[profiles.site]\nPREFECT_API_URL = "{url}"\n'
        )
        del environment["PREFECT_API_URL"]
    else:
        environment["PREFECT_API_URL"] = url
    done = run_pgproof("deploy", "--config", config, environment=environment)
    assert done.returncode == 75
    assert done.stderr.startswith(f'pgproof: could not reach the Prefect server "{url}"\nDETAIL: ')
    assert f"HINT: curl {url}/health must answer; pgproof up starts a server" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that wants a password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/api"
    listener.shutdown()
    listener.server_close()


def test_a_server_that_wants_a_password(config: str, environment: dict[str, str], refusing: str) -> None:
    done = run_pgproof("deploy", "--config", config, environment=environment | {"PREFECT_API_URL": refusing})
    assert done.returncode == 20
    assert f'cannot log in to the Prefect server "{refusing}"' in done.stderr
    assert "HINT: export PREFECT_API_AUTH_STRING=user:password" in done.stderr


def test_a_cluster_that_is_not_configured(config: str, environment: dict[str, str]) -> None:
    done = run_pgproof("--config", config, "deploy", "mian", environment=environment)
    assert done.returncode == 2
    assert 'cluster "mian" is not configured' in done.stderr
    assert 'HINT: did you mean "main"?' in done.stderr


@pytest.mark.parametrize("command", ["deploy", "up"])
def test_no_cluster_is_configured(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("")
    done = run_pgproof("--config", str(path), command, environment=environment)
    assert done.returncode == 2
    assert "no cluster is configured" in done.stderr


def test_a_port_in_use(config: str, environment: dict[str, str], refusing: str, tmp_path: Path) -> None:
    """Another Prefect may listen there; it must not get our deployments."""
    Path(config).write_text(f'state_directory = "{tmp_path}/state"\n{CONFIG}')
    port = refusing.removesuffix("/api").rsplit(":", 1)[1]
    done = run_pgproof("up", "--config", config, "--port", port, environment=environment)
    assert done.returncode == 2
    assert done.stderr == (
        f"pgproof: port {port} cannot be used\n"
        "DETAIL: Address already in use.\n"
        f"HINT: pgproof up --port {int(port) + 1}\n"
    )
