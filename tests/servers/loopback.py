"""Nothing here speaks TLS, and yet every client of Prefect's API reads the certificates of all authorities first."""

from __future__ import annotations

import os
from pathlib import Path

import certifi

_END = "-----END CERTIFICATE-----\n"


def trust_one_authority(directory: Path) -> None:
    """Let this process and those that it starts trust one authority: each client costs 1 ms instead of 26."""
    path = directory / "one-authority.pem"
    if not path.exists():
        begin, end, _ = Path(certifi.where()).read_text().partition(_END)
        path.write_text(begin[begin.index("-----BEGIN") :] + end)
        path.chmod(0o644)
    os.environ["SSL_CERT_FILE"] = str(path)
