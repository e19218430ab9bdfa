"""Restore puts a backup's files back; recovery, the server's replay of WAL, follows when it starts."""
