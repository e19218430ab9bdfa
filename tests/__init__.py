"""The tests: they mirror the packages, and everything they talk to is real."""
