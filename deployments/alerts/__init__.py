"""Alerts: who is told by Prefect when something stands in the way of recovery, and when it is over."""
