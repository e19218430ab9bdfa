"""The pull step of every deployment: run where pgproof is installed, which is another place on every machine.

``prefect.yaml`` names it; a worker calls it before it looks for the flow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def installed() -> dict[str, str]:
    """Make the directory that holds ``flows/`` the working directory of the run, as ``set_working_directory`` does."""
    directory = str(Path(__file__).resolve().parent.parent)
    os.chdir(directory)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return {"directory": directory}
