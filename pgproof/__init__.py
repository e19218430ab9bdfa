"""pgproof keeps PostgreSQL recoverable and proves it.

The engine: base backups, the WAL archive, restore, the exact cut and retention. It never
imports Prefect, so that a restore works with Prefect's server gone.
"""

__version__ = "0.1.0"
