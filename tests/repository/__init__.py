"""The repository: codec, lease, opening, and what an archive gives back."""
