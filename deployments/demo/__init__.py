"""The demo: an embedded PostgreSQL with a writer that never stops, protected, lost and restored."""
