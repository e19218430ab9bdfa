"""Isolation keeps a restored cluster from acting on anything else, and from waiting or ending where nobody meant it.

It is one list, which drills and restores share. docs/what-a-restore-does.md says of each name why it is here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgproof.postgres.versions import LOGIN_EVENT_TRIGGERS, PROMOTE_TRIGGER_FILE, TRANSACTION_TIMEOUT

# Of every recovery, whoever it is for. Set, and not taken away: postgresql.conf may have them, too
_RECOVERY = {
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "recovery_min_apply_delay": "0",
    "hot_standby": "on",
    "ignore_invalid_pages": "off",
    "zero_damaged_pages": "off",  # recovery would write zeros over what may be the only copy of a page
    "ignore_checksum_failure": "off",
}
_ISOLATION = {
    "listen_addresses": "",
    "ssl": "off",
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "max_logical_replication_workers": "0",
    "synchronous_standby_names": "",
    "external_pid_file": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "huge_pages": "try",
    "cluster_name": "restored",
}
SEARCH_PATH = "pg_catalog"
# Given with each connection, as ALTER ROLE and ALTER DATABASE override every file and the command line
_SESSION = {
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "default_transaction_isolation": "read\\ committed",  # a hot standby refuses serializable
    "default_transaction_read_only": "off",
    "zero_damaged_pages": "off",  # would hide what a drill is for
    "ignore_checksum_failure": "off",
    "role": "none",
    # reads as a superuser what others own: no function or operator of theirs may stand before PostgreSQL's
    "search_path": SEARCH_PATH,
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "client_encoding": "UTF8",
    "datestyle": "ISO",  # psycopg reads times and intervals in no other
    "intervalstyle": "postgres",
}


def recovery_defaults(major: int) -> dict[str, str]:
    """What no recovery takes over from its source; a standby that streams is given its own afterwards.

    Args:
        major: version of the server; another one may refuse a name.
    """
    extra = {"promote_trigger_file": ""} if major <= PROMOTE_TRIGGER_FILE else {}
    return _RECOVERY | extra


def isolation(major: int, preload: Sequence[str] = ()) -> dict[str, str]:
    """The settings of a restored cluster that nobody else notices.

    Args:
        major: version of the server.
        preload: libraries that recovery itself needs, such as those with a WAL resource manager of their own.
    """
    extra = {"event_triggers": "off", "sync_replication_slots": "off"}
    return (
        _ISOLATION
        | (extra if major >= LOGIN_EVENT_TRIGGERS else {})
        | {"shared_preload_libraries": ",".join(preload)}
    )


def in_words(*, isolated: bool, standby: bool) -> str:
    """The step of a plan that says what a restored cluster does besides recovery."""
    if isolated:
        return (
            "isolate it: no archiving, no subscriptions, no workers of extensions, no network, "
            "until pgproof accept"
        )
    if standby:
        return (
            "nothing isolates it: once it is promoted it archives as its source does, and subscriptions begin"
        )
    return "nothing isolates it: archiving, subscriptions and extensions stay as configured"


def session_options(major: int) -> str:
    """The settings of every connection of ours to a restored cluster, as libpq's ``options``."""
    settings = dict(_SESSION)
    if major >= LOGIN_EVENT_TRIGGERS:
        settings["event_triggers"] = "off"
    if major >= TRANSACTION_TIMEOUT:
        settings["transaction_timeout"] = "0"
    return " ".join(f"-c {name}={value}" for name, value in settings.items())
