"""Real systems that NSPS provisions, as daemons on loopback: for the tests and for `make demo`.

Each is started by a context manager, with a configuration and data of its own in a temporary
folder, and ends with it. NotInstalled says which package is missing.
"""
