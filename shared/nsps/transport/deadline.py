"""The time that a whole call may take, whatever it consists of."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """The moment by which a whole call has ended. ``clock``: monotonic, in seconds."""

    __slots__ = ("_clock", "_ends", "seconds")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._ends = clock() + seconds

    def remaining(self) -> float:
        """Seconds left; 0.0 when there are none."""
        return max(0.0, self._ends - self._clock())

    def time_left(self) -> float:
        """As ``remaining``, for the time-out of a socket. Raises TimeoutError when none is left."""
        left = self.remaining()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    @property
    def expired(self) -> bool:
        return self.remaining() <= 0

    def at_most(self, seconds: float) -> Deadline:
        """A deadline for a part of the call: this one, or sooner."""
        return Deadline(min(seconds, self.remaining()), self._clock)
