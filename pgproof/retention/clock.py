"""The clock that retention goes by: it decides how far back a window reaches, so a wrong one must not.

Windows reach back from the newest backup, by the server's clock, and never from a later time that this machine's clock
says (``pgproof.retention.plan.cutoff_of``). Holds end by this machine's clock. Where the source can be asked, both
clocks must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pgproof.config import ClusterConfig
from pgproof.errors import PermanentError, PgproofError
from pgproof.postgres.clocks import clock_skew
from pgproof.postgres.connection import connect
from pgproof.repository.repository import Archive
from pgproof.retention.expire import gather_facts
from pgproof.retention.plan import ExpirePlan, plan_expire
from pgproof.wording import duration

TOLERANCE = 60.0  # seconds; the lease asks for as much


def plan_now(cluster: ClusterConfig, archive: Archive, clock: Callable[[], datetime]) -> ExpirePlan:
    """The expire plan of a cluster, by a clock that the source agrees with.

    Args:
        cluster: its policy, and its source.
        archive: of the cluster. Hold the lease before, when the plan is to be carried out.
        clock: of this machine, aware.

    Raises:
        PermanentError: the clocks differ.
        ObjectDamaged, WrongSystem: as of ``gather_facts``.
    """
    require_clock(cluster, clock)
    return plan_expire(gather_facts(archive, cluster.retention, clock()))


def require_clock(cluster: ClusterConfig, clock: Callable[[], datetime]) -> None:
    """Refuse a clock that the source contradicts; one that does not answer contradicts nothing.

    Raises:
        PermanentError: the clocks differ by more than a minute.
    """
    try:
        with connect(cluster) as connection:
            skew = clock_skew(connection, lambda: clock().timestamp())
    except PgproofError:
        return
    if abs(skew) > TOLERANCE:
        raise PermanentError(
            f'cannot expire backups of cluster "{cluster.name}" by a clock that is wrong',
            f"This machine's clock is {duration(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the server's, and "
            "how long a hold lasts goes by it. Nothing was removed.",
            "timedatectl set-ntp true  # here and on the server",
        )
