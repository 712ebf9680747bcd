"""When a failed delivery is tried again: the schedules, as data. Pure.

First Pub/Sub's own: 10 s doubling to 600 s, 100 attempts, some 16 hours. Then, from Firestore, the
long retries: after 1, 2, 4, 8, 16 hours and then every 24, for 30 days. (The published NSPS begins
at one minute and calls its 100 attempts "about 24 h"; its own figures come to 16.1 h.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count


@dataclass(frozen=True, slots=True)
class Backoff:
    """A subscription's own retries: ``minimum`` doubling to ``maximum`` seconds."""

    minimum: int
    maximum: int
    attempts: int

    def gaps(self) -> Iterator[float]:
        """Seconds between one attempt and the next."""
        return (self.gap_after(attempt) for attempt in range(1, self.attempts))

    def gap_after(self, attempt: int) -> float:
        """Seconds after the given attempt (1, 2, ...)."""
        return min(self.minimum * 2.0 ** min(attempt - 1, 32), float(self.maximum))


@dataclass(frozen=True, slots=True)
class LongRetries:
    """The long retries of what was dead-lettered: ``hours`` one after the other, then ``then``.

    ``jitter``: the part of a gap by which a try may come later, so that what failed together does
    not come back together.
    """

    hours: tuple[float, ...]
    then: float
    days: float
    jitter: float = 0.1

    def next(
        self, parked_at: datetime, tries: int, now: datetime, spread: float = 0.0
    ) -> datetime | None:
        """When to try again after so many ``tries``; None when the time is over.

        ``spread``, 0 to 1: how much of the jitter is added, for each event its own.
        """
        hours = self.hours[tries] if tries < len(self.hours) else self.then
        gap, latest = timedelta(hours=hours), self.ends(parked_at)
        if now + gap > latest:
            return None
        return min(now + gap * (1 + self.jitter * spread), latest)

    def ends(self, parked_at: datetime) -> datetime:
        """When an event expires that was parked then."""
        return parked_at + timedelta(days=self.days)


PUSH = Backoff(minimum=10, maximum=600, attempts=100)
LONG_RETRIES = LongRetries(hours=(1, 2, 4, 8, 16), then=24, days=30)
ROUND_ATTEMPTS = 5
"""Attempts of one round of the long retries; Pub/Sub accepts no fewer before a dead letter."""
LAST_TRY_SECONDS = 3600.0
"""How long the last round may take before the event expires: a push of its attempts."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A handler's whole schedule."""

    push: Backoff = PUSH
    long: LongRetries = LONG_RETRIES


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of the plan. ``retry_round`` 0: Pub/Sub's own; ``attempt`` counts within it."""

    at: datetime
    retry_round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Every attempt that a delivery gets if each fails at once, and what comes between."""

    attempts: tuple[Attempt, ...]
    parked_at: datetime
    expires_at: datetime


def plan(schedule: Schedule, start: datetime) -> Plan:
    """The attempts of an event first delivered at ``start``, each failing at once."""
    push, long = schedule.push, schedule.long
    attempts = list(_burst(push, start, 0, push.attempts))
    parked_at = now = attempts[-1].at
    for tries in count():
        following = long.next(parked_at, tries, now)
        if following is None:
            break
        attempts += _burst(push, following, tries + 1, ROUND_ATTEMPTS)
        now = following
    expires_at = max(long.ends(parked_at), now + timedelta(seconds=LAST_TRY_SECONDS))
    return Plan(tuple(attempts), parked_at, expires_at)


def _burst(push: Backoff, start: datetime, retry_round: int, attempts: int) -> Iterator[Attempt]:
    at = start
    for attempt in range(1, attempts + 1):
        yield Attempt(at, retry_round, attempt)
        at += timedelta(seconds=push.gap_after(attempt))
