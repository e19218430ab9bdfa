"""Origins: where other tools keep backups and WAL of a cluster, so that a drill can prove those, too."""
