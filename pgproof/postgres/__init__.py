"""The only place that talks to PostgreSQL: connections, the replication protocol, programs, version facts."""

import os

# libpq gives these to every session as it begins, before ALTER DATABASE, ALTER ROLE and even its own options: what a
# function answers, and what psycopg reads, would depend on the shell that a command was started in
for _name in ("PGDATESTYLE", "PGTZ", "PGGEQO"):
    os.environ.pop(_name, None)
