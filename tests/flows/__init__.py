"""The flows end to end: a real PostgreSQL, a real Prefect server."""
