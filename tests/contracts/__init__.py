"""The contract of pgproof/repository/store.py, run on every store."""
