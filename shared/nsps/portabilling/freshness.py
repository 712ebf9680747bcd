"""Rule 3, fresh: an event is served only by a read that began after the event was received.

The time t of a read is the greatest ``received`` among the events that wait for it when it begins:
all of them were committed by Firestore before the first request goes out, so a snapshot with a t
later than a change shows the change, in all its parts. It may show newer things too; that is
harmless. ``ReadQueue`` decides, without threads or clocks; ``FreshReads`` adds them. The promises
are those of tests/model/freshness_model.py.
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
class SharedRead(Generic[T]):
    """One read. ``t`` grows while events join and is fixed when the read begins."""

    t: SnapshotTime
    joined: int = 1
    completed: Fresh[T] | None = None
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.completed is not None or self.error is not None


@dataclass(slots=True, eq=False)
class ReadQueue(Generic[T]):
    """The reads of one key: at most one is running and one is waiting."""

    running: SharedRead[T] | None = None
    waiting: SharedRead[T] | None = None

    def join(self, received: SnapshotTime) -> SharedRead[T]:
        """The read that may serve an event received then: the running one if it began later,
        else the next one."""
        if self.running is not None and self.running.t >= received:
            self.running.joined += 1
            return self.running
        if self.waiting is None:
            self.waiting = SharedRead(received)
        else:
            self.waiting.joined += 1
            self.waiting.t = max(self.waiting.t, received)
        return self.waiting

    def begin(self, shared: SharedRead[T]) -> bool:
        """Begin a read if it is its turn; True for the one who shall do it."""
        if self.running is not None or shared is not self.waiting:
            return False
        self.running, self.waiting = shared, None
        return True

    def complete(self, shared: SharedRead[T], value: T) -> Fresh[T]:
        shared.completed = Fresh(value, shared.t)
        self.running = None
        return shared.completed

    def fail(self, shared: SharedRead[T], error: BaseException) -> None:
        shared.error = error
        self.running = None

    def leave(self, shared: SharedRead[T]) -> None:
        """An event waits no longer. A read that no event waits for does not begin."""
        shared.joined -= 1
        if shared is self.waiting and not shared.joined:
            self.waiting = None

    @property
    def idle(self) -> bool:
        return self.running is None and self.waiting is None


@dataclass(slots=True, eq=False)
class _Key:
    """The reads of a key, and the threads that wait for them."""

    reads: ReadQueue[Any]
    changed: threading.Condition


@dataclass(slots=True, eq=False)
class _Cached:
    fresh: Fresh[Any]
    until: float


class FreshReads(Generic[T]):
    """One running read per key; events that come during it share the next one.

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
                at = self._keys[key] = _Key(ReadQueue(), threading.Condition(self._lock))
            shared = at.reads.join(received)
            try:
                if not self._lead(at, shared):
                    return _result(shared)
            finally:
                self._forget_if_idle(key, at)
        return self._read(key, at, shared, read)

    def _lead(self, at: _Key, shared: SharedRead[T]) -> bool:
        """Wait until the read is over (False) or is to be done by this thread (True)."""
        deadline = time.monotonic() + self._wait
        while not shared.over:
            if at.reads.begin(shared):
                return True
            if not at.changed.wait(deadline - time.monotonic()) and not shared.over:
                at.reads.leave(shared)
                raise WaitedTooLong(
                    f"waited {self._wait:g} s for a read of PortaBilling that another event of "
                    "the same owner began"
                )
        return False

    def _read(
        self, key: Hashable, at: _Key, shared: SharedRead[T], read: Callable[[], T]
    ) -> Fresh[T]:
        try:
            value = read()
        except BaseException as error:
            failure = error if isinstance(error, Exception) else Transient("the read was cut off")
            with self._lock:
                at.reads.fail(shared, failure)
                self._changed(key, at)
            raise
        with self._lock:
            fresh = at.reads.complete(shared, value)
            self._keep(key, fresh)
            self._changed(key, at)
        return fresh

    def _changed(self, key: Hashable, at: _Key) -> None:
        at.changed.notify_all()
        self._forget_if_idle(key, at)

    def _forget_if_idle(self, key: Hashable, at: _Key) -> None:
        if at.reads.idle and self._keys.get(key) is at:
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


def _result(shared: SharedRead[T]) -> Fresh[T]:
    if shared.completed is not None:
        return shared.completed
    assert shared.error is not None
    raise shared.error
