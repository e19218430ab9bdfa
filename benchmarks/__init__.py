"""Benchmarks: pgproof and other tools measured side by side, in one run, on one machine."""
