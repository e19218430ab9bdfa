"""Faults on purpose: at every call of a store, and at random moments of everything else."""
