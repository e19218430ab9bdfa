"""The exact cut, fingerprints, drills and proofs."""
