"""The packages of pgproof beside the engine: tasks, flows and deployments; common names, which others have as well.

Whatever Python finds first is what ``import tasks`` gives, also to us.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from pgproof.errors import ConfigError

NAMES = ("tasks", "flows", "deployments")
_HOME = Path(__file__).resolve().parent.parent


def require_own() -> None:
    """Refuse packages of somebody else under the names of ours.

    Raises:
        ConfigError: Python finds another one first.
    """
    for name in NAMES:
        found = _found(name)
        if found is not None and found != _HOME / name:
            raise ConfigError(
                f'package "{name}" is not that of pgproof',
                f'Python finds it in "{found}"; that of pgproof is "{_HOME / name}".',
                "install pgproof into a virtual environment of its own, and run it without PYTHONPATH: "
                "python3 -m venv /opt/pgproof; /opt/pgproof/bin/pip install 'pgproof[prefect]'; "
                "env -u PYTHONPATH /opt/pgproof/bin/pgproof",
            )


def _found(name: str) -> Path | None:
    """Where Python finds a package; None where it finds none."""
    try:
        spec = find_spec(name)
    except ValueError:  # it was put there without one
        return Path(getattr(sys.modules[name], "__file__", None) or name)
    if spec is None:
        return None
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if _HOME / name in places:
        return _HOME / name
    return places[0] if places else Path(spec.origin or name)


def installed() -> dict[str, str]:
    """The pull step of every deployment: run where pgproof is installed, which is another place on every machine.

    ``prefect.yaml`` names it; a worker calls it before it looks for the flow. It makes the directory that holds
    ``flows/`` the working directory of the run, as ``set_working_directory`` does.

    Raises:
        ConfigError: the run would get packages of somebody else.
    """
    directory = str(_HOME)
    os.chdir(directory)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    require_own()
    return {"directory": directory}
