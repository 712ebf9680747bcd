"""When a failed delivery is tried again: the schedules, as data. Pure.

First Pub/Sub's own: 10 s doubling to 600 s, 100 attempts, some 16 hours. Then, from Firestore, the
long ladder: after 1, 2, 4, 8, 16 hours and then every 24, for 30 days. (The published NSPS begins
at one minute and calls its 100 attempts "about 24 h"; its own figures come to 16.1 h.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """A subscription's own retries: ``minimum`` doubling to ``maximum`` seconds."""

    minimum: int
    maximum: int
    attempts: int

    def gaps(self) -> Iterator[float]:
        """Seconds between one attempt and the next."""
        gap = float(self.minimum)
        for _ in range(self.attempts - 1):
            yield gap
            gap = min(gap * 2, float(self.maximum))

    def gap_after(self, attempt: int) -> float:
        """Seconds after the given attempt (1, 2, ...)."""
        return min(self.minimum * 2.0 ** min(attempt - 1, 32), float(self.maximum))


@dataclass(frozen=True, slots=True)
class Ladder:
    """The long retries of what was dead-lettered: ``hours`` one after the other, then ``then``."""

    hours: tuple[float, ...]
    then: float
    days: float

    def next(self, parked_at: datetime, tries: int, now: datetime) -> datetime | None:
        """When to try again after ``tries`` of the ladder; None when the time is over."""
        gap = self.hours[tries] if tries < len(self.hours) else self.then
        at = now + timedelta(hours=gap)
        return at if at <= parked_at + timedelta(days=self.days) else None


PUSH = Backoff(minimum=10, maximum=600, attempts=100)
LADDER = Ladder(hours=(1, 2, 4, 8, 16), then=24, days=30)
RUNG_ATTEMPTS = 5
"""Attempts that one try of the ladder gets; Pub/Sub accepts no fewer before a dead letter."""
