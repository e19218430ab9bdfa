"""WAL gaps: what a recovery would need and the archive lacks, how far behind it is, and the repair."""
