"""Prefect tasks: retried by error class, thin, one engine call each."""

from tasks.heartbeat import improve

improve()
