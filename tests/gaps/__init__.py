"""What a recovery would need and the archive lacks, and its repair."""
