"""The location of the configuration; asked before anything heavy is imported."""

from __future__ import annotations

import os

DEFAULT_PATH = "pgproof.toml"


def config_path(given: str | os.PathLike[str] | None = None) -> str:
    """The absolute path of the configuration: ``--config``, else PGPROOF_CONFIG, else ./pgproof.toml."""
    return os.path.abspath(given or os.environ.get("PGPROOF_CONFIG") or DEFAULT_PATH)
