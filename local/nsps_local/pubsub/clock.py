"""The broker's clock: real time that can be moved forward on demand."""

from __future__ import annotations

import time


class Clock:
    """Unix time in seconds. It never runs backwards, also not when the machine's clock is set."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self._origin = time.time() - time.monotonic()

    def now(self) -> float:
        return self._origin + time.monotonic() + self.offset

    def advance(self, seconds: float) -> float:
        """Move the clock forward and return the new time."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"A clock only moves forward; {seconds} seconds is refused.")
        self.offset += seconds
        return self.now()
