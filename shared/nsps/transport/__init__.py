"""Calls of external systems that end in time and say what they may have changed."""
