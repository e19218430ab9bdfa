"""The WAL archive, and what brings WAL into it and out of it."""
