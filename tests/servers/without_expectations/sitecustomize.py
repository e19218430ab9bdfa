"""Python as on a worker without Great Expectations, for whoever has this directory on PYTHONPATH.

Its import takes three CPU seconds in each run of a flow; what it does has tests of its own.
"""

import sys

sys.modules["great_expectations"] = None  # type: ignore[assignment]
