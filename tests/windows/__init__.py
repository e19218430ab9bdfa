"""The picture of the recovery windows, and what it is made from."""
