"""Receiving: WAL streamed from a replication slot into every repository."""
