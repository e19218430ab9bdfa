"""The background process that pushes and fetches WAL for the server's short commands."""
