"""Alerts, from the file to the message that arrives."""
