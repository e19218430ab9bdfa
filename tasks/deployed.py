"""What is deployed: our deployments as the Prefect server has them, whoever deployed them.

Ours are those that carry the tag ``pgproof``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.responses import DeploymentResponse

_TAG = "pgproof"
_PAGE = 200  # what the server gives at once


def read_deployed(client: SyncPrefectClient, flow: str | None = None) -> Iterator[DeploymentResponse]:
    """Every deployment of ours, page by page.

    Args:
        client: of the server.
        flow: name of the only flow that is wanted; None for all.
    """
    ours = filters.DeploymentFilter(tags=filters.DeploymentFilterTags(all_=[_TAG]))
    wanted: dict[str, Any] = {"deployment_filter": ours}
    if flow is not None:
        wanted["flow_filter"] = filters.FlowFilter(name=filters.FlowFilterName(any_=[flow]))
    return pages(client.read_deployments, **wanted)


def pages(read: Callable[..., list[Any]], **wanted: Any) -> Iterator[Any]:
    """Everything that a call of the client gives, page by page.

    Args:
        read: the call, with ``limit`` and ``offset``.
        wanted: its filters.
    """
    for offset in range(0, 1_000_000, _PAGE):
        page = read(**wanted, limit=_PAGE, offset=offset)
        yield from page
        if len(page) < _PAGE:
            return
