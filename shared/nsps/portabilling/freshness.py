"""Rule 3, fresh: an event is served only by a read that began after the event was received.

The time t of a read is the greatest ``received`` among the events that wait for it when it begins:
all of them were committed by Firestore before the first request goes out, so a snapshot with a t
later than a change shows the change, in all its parts. It may show newer things too; that is
harmless. ``Line`` decides, without threads or clocks; ``FreshReads`` adds them. The promises are
those of tests/model/freshness_model.py.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import Transient

T = TypeVar("T")

TTL_SECONDS = 5.0
KEPT = 1000
WAIT_SECONDS = 60.0


class WaitedTooLong(Transient):
    """The read that was to serve the event did not end in time."""


@dataclass(frozen=True, slots=True)
class Fresh(Generic[T]):
    """What was read, and the time of the snapshot: when the read began."""

    value: T
    t: SnapshotTime


@dataclass(slots=True, eq=False)
class Flight(Generic[T]):
    """One read. ``t`` grows while events come aboard and is fixed when it begins."""

    t: SnapshotTime
    aboard: int = 1
    landed: Fresh[T] | None = None
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.landed is not None or self.error is not None


@dataclass(slots=True, eq=False)
class Line(Generic[T]):
    """The reads of one key: at most one is in the air and one is boarding."""

    flying: Flight[T] | None = None
    boarding: Flight[T] | None = None

    def board(self, received: SnapshotTime) -> Flight[T]:
        """The flight that may serve an event received then: the one in the air if it began later,
        else the next one."""
        if self.flying is not None and self.flying.t >= received:
            self.flying.aboard += 1
            return self.flying
        if self.boarding is None:
            self.boarding = Flight(received)
        else:
            self.boarding.aboard += 1
            self.boarding.t = max(self.boarding.t, received)
        return self.boarding

    def begin(self, flight: Flight[T]) -> bool:
        """Begin a flight if it is its turn; True for the one who shall do the read."""
        if self.flying is not None or flight is not self.boarding:
            return False
        self.flying, self.boarding = flight, None
        return True

    def land(self, flight: Flight[T], value: T) -> Fresh[T]:
        flight.landed = Fresh(value, flight.t)
        self.flying = None
        return flight.landed

    def crash(self, flight: Flight[T], error: BaseException) -> None:
        flight.error = error
        self.flying = None

    def leave(self, flight: Flight[T]) -> None:
        """An event waits no longer. A flight that nobody waits for does not begin."""
        flight.aboard -= 1
        if flight is self.boarding and not flight.aboard:
            self.boarding = None

    @property
    def idle(self) -> bool:
        return self.flying is None and self.boarding is None


@dataclass(slots=True, eq=False)
class _Key:
    """A line with those who wait at it."""

    line: Line[Any]
    changed: threading.Condition


@dataclass(slots=True, eq=False)
class _Cached:
    fresh: Fresh[Any]
    until: float


class FreshReads(Generic[T]):
    """One read in flight per key; those who come during it share the next one.

    ``ttl_seconds``: how long a snapshot may still serve an event that was received before its read
    began (0: not at all). ``kept``: of how many keys the last snapshot is kept. ``wait_seconds``:
    how long one event waits for a read that another leads. Thread-safe.
    """

    def __init__(
        self,
        *,
        ttl_seconds: float = TTL_SECONDS,
        kept: int = KEPT,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl_seconds
        self._kept = kept
        self._wait = wait_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[Hashable, _Key] = {}
        self._cache: OrderedDict[Hashable, _Cached] = OrderedDict()

    def get(self, key: Hashable, received: SnapshotTime, read: Callable[[], T]) -> Fresh[T]:
        """What ``read`` returns, from a read that began at or after ``received``.

        ``received`` is the commit time that Firestore gave the event's own write, which must be
        complete before this is called; a new one for every handling of an event, or two snapshots
        could have the same t. An error of the read is raised to all who waited for it. Raises
        WaitedTooLong if another's read keeps the event waiting.
        """
        with self._lock:
            cached = self._cached(key)
            if cached is not None and cached.t >= received:
                return cached
            at = self._keys.get(key)
            if at is None:
                at = self._keys[key] = _Key(Line(), threading.Condition(self._lock))
            flight = at.line.board(received)
            try:
                if not self._lead(at, flight):
                    return _result(flight)
            finally:
                self._forget_if_idle(key, at)
        return self._fly(key, at, flight, read)

    def _lead(self, at: _Key, flight: Flight[T]) -> bool:
        """Wait until the flight is over (False) or is to be led by this thread (True)."""
        deadline = time.monotonic() + self._wait
        while not flight.over:
            if at.line.begin(flight):
                return True
            if not at.changed.wait(deadline - time.monotonic()) and not flight.over:
                at.line.leave(flight)
                raise WaitedTooLong(
                    f"waited {self._wait:g} s for a read of PortaBilling that another event of "
                    "the same owner began"
                )
        return False

    def _fly(self, key: Hashable, at: _Key, flight: Flight[T], read: Callable[[], T]) -> Fresh[T]:
        try:
            value = read()
        except BaseException as error:
            shared = error if isinstance(error, Exception) else Transient("the read was cut off")
            with self._lock:
                at.line.crash(flight, shared)
                self._changed(key, at)
            raise
        with self._lock:
            fresh = at.line.land(flight, value)
            self._keep(key, fresh)
            self._changed(key, at)
        return fresh

    def _changed(self, key: Hashable, at: _Key) -> None:
        at.changed.notify_all()
        self._forget_if_idle(key, at)

    def _forget_if_idle(self, key: Hashable, at: _Key) -> None:
        if at.line.idle and self._keys.get(key) is at:
            del self._keys[key]

    def _cached(self, key: Hashable) -> Fresh[T] | None:
        cached = self._cache.get(key)
        if cached is None:
            return None
        if self._clock() >= cached.until:
            del self._cache[key]
            return None
        return cached.fresh

    def _keep(self, key: Hashable, fresh: Fresh[T]) -> None:
        if self._ttl <= 0 or self._kept <= 0:
            return
        self._cache[key] = _Cached(fresh, self._clock() + self._ttl)
        self._cache.move_to_end(key)
        while len(self._cache) > self._kept:
            self._cache.popitem(last=False)


def _result(flight: Flight[T]) -> Fresh[T]:
    if flight.landed is not None:
        return flight.landed
    assert flight.error is not None
    raise flight.error
