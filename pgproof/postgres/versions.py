"""Version facts, each named by its event; a major version is a number such as 17."""

from __future__ import annotations

from pgproof.errors import UnsupportedVersion

OLDEST_SUPPORTED = 15  # BASE_BACKUP's message framing and its keyword options: 15 (release notes, E.19)
PROMOTE_TRIGGER_FILE = 15  # the last version with this setting
INCREMENTAL_BACKUP = 17  # UPLOAD_MANIFEST, INCREMENTAL, pg_combinebackup, summarize_wal
IN_PLACE_TABLESPACES = 17  # BASE_BACKUP sends one as a tablespace, with a relative path (do_pg_backup_start)
TRANSACTION_TIMEOUT = 17  # the setting of that name
LOGIN_EVENT_TRIGGERS = 17  # ON login, and the setting event_triggers that switches them off
GIN_CHECK = 18  # gin_index_check of amcheck 1.5
NEWEST_TESTED = 18


def check_supported(server_version: int) -> int:
    """The major version of a server.

    Args:
        server_version: as ``server_version_num``, such as 170010.

    Raises:
        UnsupportedVersion: it is older than pgproof supports.
    """
    major = server_version // 10000
    if major < OLDEST_SUPPORTED:
        raise UnsupportedVersion(
            f"PostgreSQL {major} is not supported",
            f"pgproof supports {OLDEST_SUPPORTED} and later, and is tested up to {NEWEST_TESTED}.",
        )
    return major
