"""Tests of the places where other tools keep backups and WAL."""
