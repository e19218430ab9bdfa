"""Drills: break it on purpose, and look what is said and what is left."""

import pytest

pytest.register_assert_rewrite("tests.drills.damage")
