"""Leases, attempts and back-off against a plain model, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nsps_local.pubsub.backlog import Backlog, Lease, Policy

START = 1_800_000_000.0


def mid(seconds: float, number: int = 0) -> int:
    """The id of a message published then."""
    return int((START + seconds) * 1_000_000) + number


@given(
    st.floats(0, 600, allow_nan=False),
    st.floats(0, 600, allow_nan=False),
    st.integers(1, 5000),
)
def test_backoff_doubles_and_stays_within_bounds(low: float, high: float, failures: int) -> None:
    low, high = sorted((low, high))
    policy = Policy(minimum_backoff=low, maximum_backoff=high)
    assert policy.backoff(1) == low
    assert low <= policy.backoff(failures) <= high
    doubled = min(2 * policy.backoff(failures), high)
    assert policy.backoff(failures + 1) == pytest.approx(doubled) or failures > 60


def test_the_schedule_of_nsps() -> None:
    policy = Policy(minimum_backoff=10, maximum_backoff=600)
    waits = [policy.backoff(n) for n in range(1, 100)]
    assert waits[:7] == [10, 20, 40, 80, 160, 320, 600]
    assert sum(waits) / 3600 == pytest.approx(15.7, abs=0.1)  # "some 16 h" for 100 attempts


def test_an_overdue_delivery_fails_at_its_deadline_not_when_noticed() -> None:
    backlog = Backlog(Policy(ack_deadline=10, minimum_backoff=100, maximum_backoff=100))
    backlog.add(mid(0))
    backlog.lease(START, 1)
    assert backlog.next_event() == START + 10
    (failure,) = backlog.settle(START + 50).failed
    assert (failure.failures, failure.due) == (1, START + 110)
    assert not backlog.ready
    backlog.settle(START + 110)
    assert backlog.lease(START + 110, 1)[0].attempt == 2


def test_a_late_ack_counts_unless_delivered_anew() -> None:
    backlog = Backlog(Policy(ack_deadline=10, minimum_backoff=60, maximum_backoff=60))
    backlog.add(mid(0))
    (lease,) = backlog.lease(START, 1)
    backlog.settle(START + 10)
    assert backlog.ack(lease.mid, lease.token)
    assert len(backlog) == 0
    assert not backlog.ack(lease.mid, lease.token)
    backlog.settle(START + 100)
    assert backlog.lease(START + 100, 1) == []


def test_a_delivery_is_late_from_its_deadline_on() -> None:
    """Also before the overdue delivery is noticed, and after the message is leased anew."""
    backlog = Backlog(Policy(ack_deadline=10))
    backlog.add(mid(0))
    (lease,) = backlog.lease(START, 1)
    assert not backlog.is_late(lease.mid, lease.token, START + 9.9)
    assert backlog.is_late(lease.mid, lease.token, START + 10)
    backlog.settle(START + 10)
    assert backlog.is_late(lease.mid, lease.token, START + 10)
    (again,) = backlog.lease(START + 10, 1)
    assert backlog.is_late(lease.mid, lease.token, START + 11)
    assert not backlog.is_late(again.mid, again.token, START + 11)


def test_a_released_delivery_is_not_an_attempt() -> None:
    backlog = Backlog(Policy(max_attempts=5))
    backlog.add(mid(0))
    for _ in range(10):
        (lease,) = backlog.lease(START, 1)
        assert lease.attempt == 1
        backlog.release(lease.mid, lease.token)


def test_retention_drops_what_is_too_old_wherever_it_is() -> None:
    backlog = Backlog(Policy(retention=600, minimum_backoff=500, maximum_backoff=500))
    for seconds in (0, 1, 2, 300):
        backlog.add(mid(seconds))
    (lease,) = backlog.lease(START + 300, 1)
    backlog.nack(lease.mid, lease.token, START + 300)  # waits until 800
    dropped = backlog.settle(START + 700).dropped
    assert dropped == [mid(1), mid(2)]
    backlog.settle(START + 801)
    assert [one.mid for one in backlog.lease(START + 801, 9)] == [mid(300)]
    assert backlog.settle(START + 801).dropped == [mid(0)]
    assert len(backlog) == 1


def test_old_deadlines_do_not_pile_up() -> None:
    backlog = Backlog(Policy(ack_deadline=600))
    for number in range(20_000):
        backlog.add(mid(0, number))
        (lease,) = backlog.lease(START, 1)
        backlog.ack(lease.mid, lease.token)
        backlog.next_event()
    assert len(backlog._overdue) <= 1001


@dataclass
class Known:
    """What the model knows of one message."""

    failures: int = 0
    lease: Lease | None = None
    deadline: float = 0.0
    due: float = 0.0


class BacklogMachine(RuleBasedStateMachine):
    """Every message is exactly one of: ready, leased, waiting, acknowledged, dead."""

    POLICY = Policy(ack_deadline=10, minimum_backoff=3, maximum_backoff=20, max_attempts=5)

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(self.POLICY)
        self.now = START
        self.known: dict[int, Known] = {}
        self.old: list[Lease] = []
        self.number = 0

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.backlog.add(mid(0, self.number))
            self.known[mid(0, self.number)] = Known()

    def leases(self) -> st.SearchStrategy[Lease]:
        """Any there has been; three times out of four one that is still held."""
        held = [k.lease for k in self.known.values() if k.lease]
        return st.sampled_from(held * 3 * (len(self.old) // max(len(held), 1) + 1) + self.old)

    @precondition(lambda self: self.known)
    @rule()
    def fail_the_oldest_until_it_dies(self) -> None:
        oldest = min(self.known)
        while oldest in self.known:
            self.deliver(100)
            lease = self.known[oldest].lease
            if lease:
                failure = self.backlog.nack(oldest, lease.token, self.now)
                assert failure
                self._failed(oldest, self.now, failure.dead)
            self.wait(9.0)

    @rule(limit=st.integers(1, 4))
    def deliver(self, limit: int) -> None:
        ready = {m for m, k in self.known.items() if k.lease is None and k.due <= self.now}
        leases = self.backlog.lease(self.now, limit)
        assert len(leases) == min(limit, len(ready))
        for lease in leases:
            assert lease.mid in ready
            known = self.known[lease.mid]
            assert lease.attempt == known.failures + 1 <= self.POLICY.max_attempts
            known.lease, known.deadline = lease, self.now + 10
            self.old.append(lease)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        lease = data.draw(self.leases())
        known = self.known.get(lease.mid)
        accepted = known is not None and (known.lease is not None or known.failures > 0)
        assert self.backlog.ack(lease.mid, lease.token) is accepted
        if accepted:
            del self.known[lease.mid]

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        lease = data.draw(self.leases())
        known = self.known.get(lease.mid)
        held = known is not None and known.lease is lease
        failure = self.backlog.nack(lease.mid, lease.token, self.now)
        assert (failure is not None) is held
        if failure:
            self._failed(lease.mid, self.now, failure.dead)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), seconds=st.integers(1, 60))
    def extend(self, data: st.DataObject, seconds: int) -> None:
        lease = data.draw(self.leases())
        known = self.known.get(lease.mid)
        held = known is not None and known.lease is lease
        assert self.backlog.extend(lease.mid, lease.token, self.now + seconds) is held
        if held:
            assert known is not None
            known.deadline = self.now + seconds

    @rule(seconds=st.sampled_from([0.5, 3.0, 7.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        overdue = {
            m: k.deadline for m, k in self.known.items() if k.lease and k.deadline <= self.now
        }
        failed = self.backlog.settle(self.now).failed
        assert {failure.mid for failure in failed} == set(overdue)
        for failure in failed:
            self._failed(failure.mid, overdue[failure.mid], failure.dead)

    def _failed(self, message: int, when: float, dead: bool) -> None:
        known = self.known[message]
        known.failures += 1
        known.lease = None
        known.due = when + min(3 * 2 ** (known.failures - 1), 20)
        assert dead is (known.failures == 5)
        if dead:
            del self.known[message]
        self.backlog.settle(self.now)

    @invariant()
    def the_figures_agree(self) -> None:
        assert len(self.backlog) == len(self.known)
        assert self.backlog.outstanding == sum(k.lease is not None for k in self.known.values())
        assert self.backlog.oldest() == min(self.known, default=None)

    @invariant()
    def the_next_event_is_not_missed(self) -> None:
        events = [k.deadline if k.lease else k.due for k in self.known.values()]
        later = [event for event in events if event > self.now]
        found = self.backlog.next_event()
        assert not later or (found is not None and found <= min(later))


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
