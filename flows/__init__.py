"""Prefect flows: the steps that an operator would perform, in order."""
