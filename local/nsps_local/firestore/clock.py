"""The server's clock: one, strictly increasing, in microseconds.

If one commit is answered before another begins, the other's time is greater. That holds across
restarts (the time of the last commit is kept) and when the machine's clock steps back (it is read
once, at the start; from then on time runs by the monotonic clock).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

MICRO = 1_000_000


class Clock:
    """`last` is the greatest time given, `advanced` the seconds it was moved ahead; both kept."""

    def __init__(
        self,
        last: int,
        advanced: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._last = last
        self.advanced = advanced
        self._monotonic = monotonic
        self._zero = max(int(wall() * MICRO) + int(advanced * MICRO), last) - int(
            monotonic() * MICRO
        )

    def now(self) -> int:
        """The time of a read: not before any commit so far, and before every later one."""
        self._last = max(self._last, self._zero + int(self._monotonic() * MICRO))
        return self._last

    def next(self) -> int:
        """The time of a commit: greater than every time given before."""
        self._last = max(self._last + 1, self._zero + int(self._monotonic() * MICRO))
        return self._last

    def advance(self, seconds: float) -> None:
        """Move ahead."""
        self.advanced += seconds
        self._zero += int(seconds * MICRO)


def timestamp(micros: int) -> Timestamp:
    return Timestamp(seconds=micros // MICRO, nanos=micros % MICRO * 1000)


def micros(stamp: Timestamp) -> int:
    """A protobuf time in microseconds, cut."""
    return int(stamp.seconds) * MICRO + int(stamp.nanos) // 1000
