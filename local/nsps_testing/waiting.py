"""Waiting in a test for what happens elsewhere: for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: Callable[[], Any], seconds: float = 30, why: str = "") -> Any:
    """The first true value of ``what``; AssertionError, with the last one, after the time."""
    ends = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < ends, f"not within {seconds} s, still {value!r}: {why or what}"
        time.sleep(0.01)
    return value
