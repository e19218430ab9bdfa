"""Readiness: what would stop a backup, a restore or a proof today, each with its mend."""
