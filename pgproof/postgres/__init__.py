"""The only place that talks to PostgreSQL: connections, the replication protocol, programs, version facts."""
