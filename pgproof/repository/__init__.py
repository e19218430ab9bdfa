"""The repository: plain objects under written keys, on any store, restorable without us."""
