"""Base backups: taken from real servers, and their parts as values."""
