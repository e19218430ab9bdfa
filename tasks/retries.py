"""Retries: the class of an error decides whether trying again may help."""

from __future__ import annotations

from typing import Any

import psycopg
from prefect.tasks import exponential_backoff

from pgproof.errors import PgproofError, TransientError


def may_help(task: Any, run: Any, state: Any) -> bool:
    """Prefect's ``retry_condition_fn``: a TransientError is tried again, a PermanentError never.

    What is not ours (a broken connection in the middle of a query, say) is tried again, too.
    """
    try:
        state.result()
    except PgproofError as error:
        return isinstance(error, TransientError)
    except Exception as error:
        return isinstance(error, (OSError, psycopg.OperationalError))
    return False


# 10, 20 and 40 s with jitter: long enough for a restarted server or a passing fault of a store
RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_help,
}
