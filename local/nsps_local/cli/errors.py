"""What a command cannot do: one sentence that says what is wrong and what to do."""

from __future__ import annotations


class CommandError(Exception):
    """Printed as it is, without a stack; exit status 2."""
