"""The Prefect server: found by PREFECT_API_URL, given a work pool, and told of runs whose worker is gone.

Prefect is imported inside the functions, once the environment is as it shall be.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployments.work_pools import KINDS, left_open, template_of
from pgproof.errors import AuthenticationFailed, ConfigError, TransientError

POOL = "pgproof"
ENDED = "its worker ended"
_NOT_IN_NAMES = re.compile(r"[/%&><]")


def server_url() -> str:
    """The URL of the server's API, from the environment or from Prefect's profile.

    Raises:
        ConfigError: none is named.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        from prefect.settings import get_current_settings

        url = get_current_settings().api.url
    if not url:
        raise ConfigError(
            "no Prefect server is named",
            "Without PREFECT_API_URL the deployments would go to a server that ends with this command.",
            "export PREFECT_API_URL=http://127.0.0.1:4200/api, or run pgproof up",
        )
    return url


@contextlib.contextmanager
def server() -> Iterator[Any]:
    """A client of the server, with what it says turned into our errors.

    Raises:
        ConfigError: no server is named.
        AuthenticationFailed: it wants other credentials.
        TransientError: it does not answer, or not as it should.
    """
    url = server_url()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise AuthenticationFailed(
                f'cannot log in to the Prefect server "{url}"',
                f"It answers {status}.",
                "export PREFECT_API_AUTH_STRING=user:password; that of pgproof up is in prefect-login of its "
                "state directory",
            ) from error
        raise TransientError(f'could not use the Prefect server "{url}"', f"{error}") from error
    except httpx.TransportError as error:
        raise TransientError(
            f'could not reach the Prefect server "{url}"',
            f"{error}.",
            f"curl {url}/health must answer; pgproof up starts a server",
        ) from error


@dataclass(frozen=True)
class Pool:
    """A work pool.

    Args:
        name: of the pool.
        kind: which worker takes its runs: process, docker, kubernetes or ecs.
        paused: whether none is taken; of the pool, or the names of its queues that are.
        left_open: what a run can choose by its job variables, of what decides which code it runs.
    """

    name: str
    kind: str
    paused: bool = False
    paused_queues: tuple[str, ...] = ()
    left_open: tuple[str, ...] = ()


def ensure_pool(name: str = POOL, kind: str | None = None) -> Pool:
    """Make a work pool where it is missing; one that is there keeps its settings.

    Args:
        name: of the pool.
        kind: which worker takes its runs; None takes the pool as it is, and makes one for processes.

    Raises:
        ConfigError: the pool is there, and is for another worker; or Prefect takes no pool of this name.
        TransientError, AuthenticationFailed: the server did not take it.
    """
    if not name or _NOT_IN_NAMES.search(name) or name.lower().startswith("prefect"):
        raise ConfigError(
            f'work pool "{name}" cannot be made',
            "Prefect takes no name with one of / % & > < in it, and none that starts with prefect.",
            f"pgproof deploy --pool {POOL}",
        )
    with server() as client:
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            made = kind or KINDS[0]
            pool = WorkPoolCreate(
                name=name,
                type=made,
                base_job_template=template_of(made),
                description="The runs of pgproof: each cluster has a work queue of its name; made by pgproof deploy",
            )
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(pool)
            found = client.read_work_pool(name)
        if kind is not None and found.type != kind:
            raise ConfigError(
                f'work pool "{name}" is for another worker',
                f"It is of type {found.type}, and {kind} was asked for.",
                f"pgproof deploy --pool-type {found.type}, or --pool with another name",
            )
        queues = client.read_work_queues(work_pool_name=name)
        paused = tuple(sorted(queue.name for queue in queues if queue.is_paused))
        open_ones = left_open(found.base_job_template)
        return Pool(name, found.type, bool(found.is_paused), paused, open_ones)


def close_pool(pool: Pool) -> None:
    """Give a pool of a local server our template again, when its own lets runs choose their command or the like.

    Raises:
        TransientError, AuthenticationFailed: the server did not take it.
    """
    if not pool.left_open:
        return
    with server() as client:
        from prefect.client.schemas.actions import WorkPoolUpdate

        client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template_of(pool.kind)))


def end_orphans() -> list[str]:
    """Mark the pool's unfinished runs as crashed, and free their slots; only for whoever knows that no worker is left.

    A worker that ends takes its flow runs with it, and leaves them running for ever on the server
    (PrefectHQ/prefect#16746), where they would hold their concurrency slots. Where workers may be left, the flow
    ``reap`` finds out which runs are dead.

    Returns:
        the names of the runs.
    """
    with server() as client:
        from prefect.states import Crashed

        from tasks.life import unfinished
        from tasks.slots import free_slots

        runs = unfinished(client, POOL)
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message=ENDED), force=True)
        free_slots(client, POOL)
        return [run.name for run in runs]
