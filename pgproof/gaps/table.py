"""The table of recovery windows: one form for the command and the artifact."""

from __future__ import annotations

from collections.abc import Sequence

from pgproof.gaps.gap import GapReport, RecoveryWindow

COLUMNS = ("backup", "timeline", "LSN", "UTC", "state")


def rows(report: GapReport) -> Sequence[tuple[str, ...]]:
    """Rows of the windows table: backup, timeline, reach as times and as LSNs, and what ends it."""
    return [
        (
            window.backup,
            str(window.timeline),
            f"{window.start} to {window.end}",
            f"{window.from_time:%F %T} to {f'{window.to_time:%F %T}' if window.to_time else '?'}",
            _state(window),
        )
        for window in report.windows
    ]


def _state(window: RecoveryWindow) -> str:
    if window.broken_by:
        state = f"broken by {window.broken_by}"
    else:
        state = "older: WAL after it is expired" if window.expired else "complete"
    return f"{window.unusable}; {state}" if window.unusable else state
