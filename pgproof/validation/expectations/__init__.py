"""Expectations: Great Expectations' suites of a cluster, what they say, and their pages."""
