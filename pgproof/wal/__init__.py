"""WAL: the archive, what brings WAL into it and out of it, and what its content says."""
