"""Rows of SQL tables: client.py is what a connector uses, table.py how it names its tables."""
