"""Tools: what a server can be told to archive with and to restore from."""
