"""Every API call the sandbox received: which, about whom, when, and how it went. For tests and
benchmarks.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

CALLS_KEPT = 100_000
KEYS = (
    "i_account",
    "id",
    "i_sim_card",
    "i_customer",
    "i_product",
    "i_access_policy",
    "i_invoice",
    "name",
)


class Calls:
    """A ring of the last calls, and counts since the last reset. Neither holds a secret."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[dict[str, Any]] = deque(maxlen=CALLS_KEPT)
        self._counts: Counter[str] = Counter()

    def add(self, method: str, params: Mapping[str, Any], started: float) -> dict[str, Any]:
        """Record a call at its arrival; the answer's "status" and "seconds" are filled in later."""
        key = next(((name, params[name]) for name in KEYS if name in params), None)
        call: dict[str, Any] = {
            "method": method,
            "key": f"{key[0]}={key[1]}" if key else None,
            "at": started,
            "status": None,
            "seconds": None,
        }
        with self._lock:
            self._calls.append(call)
            self._counts[method] += 1
        return call

    def shown(self, method: str | None, limit: int) -> list[dict[str, Any]]:
        """The latest calls (of one method), oldest first."""
        with self._lock:
            chosen = [call for call in self._calls if method in {None, call["method"]}]
        return chosen[-limit:]

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def reset(self) -> None:
        with self._lock:
            self._calls.clear()
            self._counts.clear()
