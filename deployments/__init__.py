"""Deployments: what brings the flows to a Prefect server, and the demo."""
