"""The writer: a process that changes the demo's database for as long as it lives."""

from __future__ import annotations

import random
import sys
import threading

import psycopg

ORDER = (
    "INSERT INTO shop.orders (customer_id, total) VALUES (%s, %s)",
    "UPDATE shop.orders_past SET state = 'returned' WHERE id = %s",
    'INSERT INTO shop.audit_line (at, "user name") VALUES (clock_timestamp(), %s)',
)


def write(dsn: str, seed: int) -> None:
    """Commit small transactions, one after the other, for ever; one in ten is rolled back."""
    chance = random.Random(seed)
    with psycopg.connect(dsn) as connection:
        while True:
            connection.execute(ORDER[0], (chance.randint(1, 40000), chance.randint(1, 10**6) / 7))
            connection.execute(ORDER[1], (chance.randint(1, 150000),))
            connection.execute(ORDER[2], (f"writer {seed}",))
            if chance.random() < 0.1:
                connection.rollback()
            else:
                connection.commit()


def main(dsn: str, connections: int = 2) -> None:
    """Several connections at once, until the process is ended or the server goes away."""
    threads = [threading.Thread(target=write, args=(dsn, seed), daemon=True) for seed in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    threading.excepthook = lambda arguments: None  # the server went away: that is how the demo ends
    main(sys.argv[1])
