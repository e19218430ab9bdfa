"""Prefect tasks: retried by error class, thin, one engine call each."""

from tasks.heartbeat import leave_at_once

leave_at_once()
