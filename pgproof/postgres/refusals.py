"""A refusal: the server's answer to a replication command that it does not carry out, as one of our errors."""

from __future__ import annotations

from pgproof.errors import ObjectMissing, PermanentError, PgproofError, ServerNotReady, SlotInUse


def command_error(verb: str, state: str, text: str, name: str) -> PgproofError:
    """The error of a command about WAL or a slot, by SQLSTATE, because the text may be in any language.

    ``START_REPLICATION`` gives no code to "requested timeline is not in this server's history" and "requested
    starting point is ahead of the WAL flush position" (StartReplication in walsender.c), hence XX000.

    Args:
        verb: first word of the command.
        state: SQLSTATE of the answer.
        text: of the answer.
        name: of the cluster.
    """
    if verb == "START_REPLICATION" and state in ("58P01", "XX000"):
        return ObjectMissing(f'cluster "{name}" does not have the WAL that was asked for', text)
    if state == "55006":  # object_in_use
        return SlotInUse(
            f'could not use the replication slot of cluster "{name}"',
            text,
            "another pgproof wal receive runs, or the server has not noticed yet that it ended; "
            "give each its own with --slot",
        )
    if state in ("42704", "42710", "53400"):
        hint = "raise max_replication_slots" if state == "53400" else "SELECT * FROM pg_replication_slots"
        return ServerNotReady(f'{verb} is not possible on cluster "{name}" now', text, hint)
    return PermanentError(f'{verb} failed on cluster "{name}"', text)
