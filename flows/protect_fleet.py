"""The flow ``protect-fleet``."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from pgproof.errors import ConfigError, Finding
from tasks.children import cancel_children
from tasks.fleet import Bounds, protect_members
from tasks.fleet_card import FleetCard, emit_fleet, read_scores, show_fleet
from tasks.members import find_members
from tasks.work import now


@flow(name="protect-fleet", flow_run_name="protect the fleet", on_cancellation=[cancel_children])
def protect_fleet(
    clusters: tuple[str, ...] = (),
    config: str | None = None,
    at_once: Annotated[int, Field(ge=1, le=100)] = 2,
    incremental: bool = False,
    unserved: Annotated[int, Field(ge=1)] = 600,
    silence: Annotated[int, Field(ge=1)] = 180,
) -> dict[str, Any]:
    """Protect every cluster, some at once, each by a run of its own `protect`, and show one scorecard of all.

    At three in the morning: the state names the clusters that were not protected; open their runs, which say why.
    The others are done. A run whose worker died was run again already, once. "Not taken" means that no worker serves
    the cluster's work queue. Cancelling this run cancels its children; a retry of it starts none twice.

    Args:
        clusters: names; none: every cluster of the configuration
        config: path of pgproof.toml on the worker; default: PGPROOF_CONFIG
        at_once: clusters that are protected at the same time
        incremental: build on the newest backups; needs PostgreSQL 17 with summarize_wal
        unserved: seconds after which a run that no worker takes is given up
        silence: seconds without a sign of life after which a run is watched, and taken for dead
    """
    members = find_members(clusters, config)
    if not members:
        raise ConfigError("no cluster is configured", hint="pgproof init NAME --dsn ... --repository ...")
    bounds = Bounds(at_once, unserved, silence)
    outcomes = protect_members(members, str(flow_run.id), bounds, {"incremental": incremental})
    card = FleetCard(now(), tuple(outcomes), tuple(read_scores(members)))
    show_fleet(card)
    emit_fleet(card)
    refuse_unprotected(card)
    return card.as_dict()


def refuse_unprotected(card: FleetCard) -> None:
    """Fail the run when a cluster was not protected, now that all are done, so that its alert goes out.

    Args:
        card: of the run.

    Raises:
        Finding: with every cluster that was not, and why.
    """
    if not card.failed:
        return
    raise Finding(
        f"{len(card.failed)} of {len(card.outcomes)} clusters were not protected",
        " ".join(f"{one.cluster} {one.result}: {one.message}." for one in card.failed),
        "pgproof fleet shows all of them; open the runs of these",
    )
