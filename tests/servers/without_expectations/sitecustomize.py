"""Python as on a worker without Great Expectations, for whoever has this directory on PYTHONPATH.

Its import takes three CPU seconds in each run of a flow; what it does has tests of its own. A tenth of the import of
Prefect goes into looking for garbage where there is none.
"""

import gc
import sys

sys.modules["great_expectations"] = None  # type: ignore[assignment]
gc.set_threshold(100_000)
