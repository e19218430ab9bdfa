"""The interpreter of a worker, which has Prefect and pgproof: each run of a flow is started with it.

Prefect's workers import this module as they start, because pyproject.toml names it among ``prefect.collections``, and
``deployments/work_pools/process.json`` needs what it sets. Left to itself, a process worker starts an interpreter that
makes a directory ready for the flow, and which then becomes the one that runs it; Prefect is imported twice, and
nothing has to be made ready, as pgproof is installed. A worker's PATH may name another interpreter, or none.
"""

import os
import sys

os.environ["PGPROOF_PYTHON"] = sys.executable  # the worker's runs inherit it
