"""The question of ``pgproof doctor`` about Prefect's server: does it answer whoever asks?"""

from __future__ import annotations

import urllib.error
import urllib.request

from flows.login import running_url
from pgproof.config import ClusterConfig, Config
from pgproof.errors import ConfigError
from pgproof.readiness.check import Check

NAME = "Prefect API"
_CLOSED = (401, 403)
_MEND = """\
umask 077; echo "PREFECT_SERVER_API_AUTH_STRING=admin:$(openssl rand -hex 24)" > prefect-server.env
# start the server with the variables of this file; workers and commands get the same value as PREFECT_API_AUTH_STRING
export PREFECT_SERVER_CORS_ALLOWED_ORIGINS=''"""


def api_of(cluster: ClusterConfig, config: Config) -> list[Check]:
    """One check of the server that is in use; none where there is none, or it does not answer.

    Args:
        cluster: that is asked about.
        config: that it is part of; `pgproof up` may run with its state directory.
    """
    url = _url(config)
    if not url:
        return []
    request = urllib.request.Request(f"{url}/deployments/count", b"{}", {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return [Check(NAME, False, "", _open(url), _MEND)]
    except urllib.error.HTTPError as error:
        if error.code in _CLOSED:
            return [Check(NAME, True, "", f"{url} wants a login")]
        return [Check(NAME, None, "", f"could not look: {url} answers {error.code}")]
    except (OSError, ValueError):
        return []


def _url(config: Config) -> str:
    from deployments.server import server_url

    try:
        return server_url().rstrip("/")
    except ConfigError:
        return running_url(config.state)


def _open(url: str) -> str:
    return (
        f"{url} answers without a login: whoever reaches it, every account of the machine too, can run commands as "
        "the account of the workers, and read what is kept in blocks"
    )
