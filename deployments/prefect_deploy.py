"""``prefect deploy``, run on a rendered prefect.yaml: what Prefect derives from a flow is its own business."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deployments.server import server_url
from flows.login import login_in_use
from pgproof.errors import TransientError
from pgproof.held import temporary_directory
from pgproof.postgres.programs import ending_with_us

_LIMIT = 300  # seconds for `prefect deploy`, and 2 more for each deployment


def project() -> Path:
    """The directory that holds ``flows/``: the clone, or where the package is installed."""
    return Path(__file__).resolve().parent.parent


def prefect_deploy(tree: dict[str, Any]) -> None:
    """Deploy all of a rendered file. It ends with us: one that went on could overwrite what is deployed after it.

    Args:
        tree: as it is rendered.

    Raises:
        ConfigError: no Prefect server is named.
        TransientError: Prefect's command failed; what it deployed until then stays.
    """
    settings = os.environ | {
        "PREFECT_API_URL": server_url(),
        **login_in_use(),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # an error rather than a throw-away server
        "COLUMNS": "200",
    }
    with temporary_directory("deploy") as directory:
        path = directory / "prefect.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False, width=1000))
        words = ("--no-prompt", "deploy", "--all", "--prefect-file", str(path))
        _prefect(settings, words, _LIMIT + 2 * len(tree["deployments"]))


def _prefect(environment: dict[str, str], words: Sequence[str], limit: float) -> None:
    what, hint = (
        'could not run "prefect deploy"',
        "run the same command again: what is deployed already stays",
    )
    try:
        done = subprocess.run(
            ending_with_us([sys.executable, "-m", "prefect", *words], signal.SIGTERM),
            env=environment,
            cwd=project(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(what, f"It did not end within {limit:.0f} s.", hint) from error
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise TransientError(what, f"It ended with {done.returncode} and said: {said[-800:]}", hint)
