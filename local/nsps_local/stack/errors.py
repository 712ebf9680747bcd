"""What keeps the local stack from starting: one clear sentence for whoever typed the command."""

from __future__ import annotations


class CannotStart(Exception):
    """The stack cannot start; the message says what is wrong and what to do."""
