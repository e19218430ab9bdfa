"""The deployments on real Prefect servers: deploy, up, prefect.yaml."""
