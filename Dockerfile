# A worker: the flows, and PostgreSQL's programs of one major version, that of the clusters whose backups it restores.
ARG POSTGRES=17
FROM postgres:${POSTGRES}-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*

COPY . /usr/src/pgproof
# --no-deps: the lock is complete, and Debian's pip takes sqlalchemy[asyncio] for another package than sqlalchemy
RUN python3 -m venv /opt/pgproof \
 && /opt/pgproof/bin/pip install --no-cache-dir --no-deps --require-hashes -r /usr/src/pgproof/requirements-worker.lock \
 && /opt/pgproof/bin/pip install --no-cache-dir --no-deps '/usr/src/pgproof[prefect]' \
 && /opt/pgproof/bin/pip check \
 && install -d -o postgres -g postgres /etc/pgproof \
 && for name in .local .local/state .local/state/pgproof .local/state/pgproof/scratch; do \
      install -d -m 700 -o postgres -g postgres /var/lib/postgresql/$name; done \
 && rm -rf /usr/src/pgproof

ENV PATH=/opt/pgproof/bin:$PATH PGPROOF_CONFIG=/etc/pgproof/pgproof.toml \
    PREFECT_SERVER_EPHEMERAL_ENABLED=false DO_NOT_TRACK=1
# PostgreSQL refuses to run as root; 999 in this image
USER postgres
WORKDIR /var/lib/postgresql
# the image it builds on would start a server; a work pool gives its own command
ENTRYPOINT []
CMD ["prefect", "worker", "start", "--pool", "pgproof", "--type", "process"]
