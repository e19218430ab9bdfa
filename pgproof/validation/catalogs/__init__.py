"""Catalogs: everything in a database besides rows of tables, on the source and in the copy."""
