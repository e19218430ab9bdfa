"""The commands behind ``pgproof``: each reads the configuration, calls the engine and shows the result."""
