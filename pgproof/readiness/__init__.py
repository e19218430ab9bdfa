"""Readiness: what would prevent a backup, a restore or a proof today, and how to fix it."""
