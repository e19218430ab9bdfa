"""Checks: what a drill looks at besides the comparison."""
