"""Retention: which backups and WAL are kept, why, and how the rest is removed without harm."""
