"""WAL: positions, segments, and what is made of them."""
