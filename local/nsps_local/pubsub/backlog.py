"""One subscription's messages: what is ready, leased, waiting for its back-off, or to be given up.

Pure: no I/O, and time comes in as an argument (Unix seconds). A message is only its id here. Ids
are microseconds of publish time, so that order and age need no look-up; bodies stay in the store.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

_LARGEST_DOUBLING = 60  # beyond it every back-off is at its maximum, and 2.0**n could overflow


@dataclass(frozen=True, slots=True)
class Policy:
    """What delivery needs of a subscription's configuration; all times in seconds."""

    ack_deadline: float = 10.0
    minimum_backoff: float = 0.0
    maximum_backoff: float = 0.0
    max_attempts: int = 0  # 0: no dead letters
    retention: float = 7 * 86400.0

    def backoff(self, failures: int) -> float:
        """Wait after the n-th failure: the minimum, doubling up to the maximum."""
        doublings = min(failures - 1, _LARGEST_DOUBLING)
        return min(self.maximum_backoff, self.minimum_backoff * 2.0**doublings)


@dataclass(slots=True)
class Lease:
    """One delivery, outstanding until it is acknowledged, refused or overdue."""

    mid: int
    token: int
    attempt: int
    deadline: float
    ended: Callable[[Lease, str], None] | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that did not succeed. `dead`: attempts are used up, the caller must forward it."""

    mid: int
    failures: int
    due: float
    dead: bool


@dataclass(slots=True)
class Settled:
    """What time has brought about: overdue deliveries, and messages past their retention."""

    failed: list[Failure] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)


class Backlog:
    """The unacknowledged messages of one subscription."""

    def __init__(self, policy: Policy, first_token: int = 0) -> None:
        self.policy = policy
        self._fresh: deque[int] = deque()  # never delivered, in order of id
        self._again: deque[int] = deque()  # ready for another delivery; goes first
        self._waiting: list[tuple[float, int]] = []  # heap of (due, id)
        self._leases: dict[int, Lease] = {}
        self._overdue: list[tuple[float, int, int]] = []  # heap of (deadline, id, token)
        self._failures: dict[int, int] = {}
        self._gone: set[int] = set()  # acknowledged late, still in _again or _waiting
        self._dropped: list[int] = []
        self._tokens = count(first_token)

    # -- coming in

    def add(self, mid: int, not_before: float | None = None) -> None:
        if not_before is not None:
            heapq.heappush(self._waiting, (not_before, mid))
        elif self._fresh and mid < self._fresh[-1]:
            self._again.append(mid)
        else:
            self._fresh.append(mid)

    def restore(self, mid: int, failures: int, due: float) -> None:
        """Put back a message that has failed before, as after a restart."""
        self._failures[mid] = failures
        heapq.heappush(self._waiting, (due, mid))

    # -- delivery

    def lease(self, now: float, limit: int, deadline: float | None = None) -> list[Lease]:
        """Take up to `limit` ready messages; each must be settled within `deadline` seconds."""
        seconds = self.policy.ack_deadline if deadline is None else deadline
        taken: list[Lease] = []
        while len(taken) < limit:
            mid = self._next_ready(now)
            if mid is None:
                break
            lease = Lease(mid, next(self._tokens), self._failures.get(mid, 0) + 1, now + seconds)
            self._leases[mid] = lease
            heapq.heappush(self._overdue, (lease.deadline, mid, lease.token))
            taken.append(lease)
        return taken

    def is_late(self, mid: int, token: int, now: float) -> bool:
        """Whether a delivery is over: overdue or refused, perhaps leased anew."""
        lease = self._held(mid, token)
        return lease is None or lease.deadline <= now

    def ack(self, mid: int, token: int) -> bool:
        """Acknowledge; also late, if the message has not been leased anew. False: not known."""
        lease = self._leases.get(mid)
        if lease is not None:
            self._end(lease, "acked")
        elif mid in self._failures and mid not in self._gone:
            self._gone.add(mid)
        else:
            return False
        self._failures.pop(mid, None)
        return True

    def nack(self, mid: int, token: int, now: float) -> Failure | None:
        """Refuse a delivery. None: it is no longer outstanding, nothing changes."""
        lease = self._held(mid, token)
        return self._fail(lease, now, "nacked") if lease else None

    def extend(self, mid: int, token: int, deadline: float) -> bool:
        lease = self._held(mid, token)
        if lease is None:
            return False
        lease.deadline = deadline
        heapq.heappush(self._overdue, (deadline, mid, token))
        return True

    def release(self, mid: int, token: int) -> None:
        """Give a delivery back as if it had not been made: no attempt is counted."""
        lease = self._held(mid, token)
        if lease:
            self._end(lease, "released")
            self._again.appendleft(mid)

    # -- time

    def settle(self, now: float) -> Settled:
        """Fail what is overdue, and make ready what has waited long enough."""
        result = Settled()
        while self._overdue and self._overdue[0][0] <= now:
            deadline, mid, token = heapq.heappop(self._overdue)
            lease = self._held(mid, token)
            if lease and lease.deadline == deadline:
                result.failed.append(self._fail(lease, deadline, "expired"))
        while self._waiting and self._waiting[0][0] <= now:
            self._again.append(heapq.heappop(self._waiting)[1])
        horizon = self._horizon(now)
        while self._fresh and self._fresh[0] < horizon:
            self._dropped.append(self._fresh.popleft())
        result.dropped, self._dropped = self._dropped, []
        return result

    def next_event(self) -> float | None:
        """When `settle` will next have something to do."""
        self._forget_stale_deadlines()
        heads = [heap[0][0] for heap in (self._waiting, self._overdue) if heap]
        return min(heads, default=None)

    # -- wholesale

    def forget_before(self, mid: int) -> None:
        """Drop everything published before the id, as a seek does."""
        self._fresh = deque(m for m in self._fresh if m >= mid)
        self._again = deque(m for m in self._again if m >= mid)
        self._waiting = [entry for entry in self._waiting if entry[1] >= mid]
        heapq.heapify(self._waiting)
        for lease in [lease for lease in self._leases.values() if lease.mid < mid]:
            self._end(lease, "released")
        self._failures = {m: n for m, n in self._failures.items() if m >= mid}
        self._gone = {m for m in self._gone if m >= mid}

    # -- figures

    def __len__(self) -> int:
        kept = len(self._fresh) + len(self._again) + len(self._waiting) + len(self._leases)
        return kept - len(self._gone)

    @property
    def ready(self) -> bool:
        return bool(self._again or self._fresh)

    @property
    def outstanding(self) -> int:
        return len(self._leases)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def oldest(self) -> int | None:
        """Id of the oldest unacknowledged message."""
        heads = [self._fresh[0]] if self._fresh else []
        heads += [m for m in self._again if m not in self._gone]
        heads += [m for _, m in self._waiting if m not in self._gone]
        heads += self._leases
        return min(heads, default=None)

    # -- inside

    def _next_ready(self, now: float) -> int | None:
        horizon = self._horizon(now)
        while self._again or self._fresh:
            mid = self._again.popleft() if self._again else self._fresh.popleft()
            if mid in self._gone:
                self._gone.discard(mid)
            elif mid < horizon:
                self._failures.pop(mid, None)
                self._dropped.append(mid)
            else:
                return mid
        return None

    def _horizon(self, now: float) -> int:
        return int((now - self.policy.retention) * 1_000_000)

    def _held(self, mid: int, token: int) -> Lease | None:
        lease = self._leases.get(mid)
        return lease if lease and lease.token == token else None

    def _end(self, lease: Lease, how: str) -> None:
        del self._leases[lease.mid]
        if lease.ended:
            lease.ended(lease, how)

    def _fail(self, lease: Lease, now: float, how: str) -> Failure:
        self._end(lease, how)
        failures = lease.attempt
        due = now + self.policy.backoff(failures)
        if 0 < self.policy.max_attempts <= failures:
            self._failures.pop(lease.mid, None)
            return Failure(lease.mid, failures, due, dead=True)
        self.restore(lease.mid, failures, due)
        return Failure(lease.mid, failures, due, dead=False)

    def _forget_stale_deadlines(self) -> None:
        heap = self._overdue
        if len(heap) > 2 * len(self._leases) + 1000:
            heap[:] = [(lease.deadline, m, lease.token) for m, lease in self._leases.items()]
            heapq.heapify(heap)
        while heap and (
            (lease := self._held(heap[0][1], heap[0][2])) is None or lease.deadline != heap[0][0]
        ):
            heapq.heappop(heap)
