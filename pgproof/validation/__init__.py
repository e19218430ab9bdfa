"""Validation: the exact cut, fingerprints, restore drills and the proofs they leave."""
