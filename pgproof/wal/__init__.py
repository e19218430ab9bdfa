"""WAL: positions, segments, and the archive that carries them."""
