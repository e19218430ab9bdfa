"""Base backups: taken straight from the replication protocol, and the catalog of their records."""
