"""Prefect flows: the steps that an operator would perform, in order."""

from pgproof.packages import require_own

require_own()
