"""What recovery said last is found in a log that other processes write into as well."""

from __future__ import annotations

import pytest

from pgproof.validation.checks.server_log import last_of_recovery

BEFORE = '2026-12-01 07:17:00.041 GMT [18418] startup LOG:  restored log file "00000001000000000000000F" from archive'
DONE = (
    "2026-12-01 07:17:00.155 GMT [18418] startup LOG:  redo done at 0/F0001A0 system usage: CPU: user: 0.00 s"
)
NO_FILE = "no WAL file 000000010000000000000010"
READY = "2026-12-01 07:17:00.061 GMT [18399] postmaster LOG:  database system is ready to accept read-only connections"
CLIENT = "2026-12-01 07:17:00.061 GMT [18407] client backend ERROR:  transaction ID 769 is in the future\n\tSELECT 1"
INVALID = "2026-12-01 07:17:00.155 GMT [18418] startup LOG:  invalid magic number 0000 in log segment, LSN 0/10000000"
HINT = "2026-12-01 07:17:00.155 GMT [18418] startup HINT:  If this has occurred more than once"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((BEFORE, NO_FILE, DONE), NO_FILE),
        ((BEFORE, NO_FILE, READY, DONE), NO_FILE),
        ((BEFORE, NO_FILE, CLIENT, READY, DONE, INVALID), NO_FILE),
        ((BEFORE, INVALID, HINT, CLIENT, DONE), "invalid magic number 0000 in log segment, LSN 0/10000000"),
        ((BEFORE, NO_FILE, READY), None),
    ],
)
def test_what_recovery_said_last(lines: tuple[str, ...], reason: str | None) -> None:
    assert last_of_recovery("\n".join(lines) + "\n") == reason
