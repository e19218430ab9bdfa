"""How workers get the tests: whole groups of files, in the order in which they were arranged.

pytest-xdist's own ``--dist loadgroup`` does not see its groups with pytest 9.2, which keeps the identifier of a test
elsewhere.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.order import group_of


class ByGroup(LoadScopeScheduling):
    """A worker gets all tests of a group, and keeps the server that they share."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])
