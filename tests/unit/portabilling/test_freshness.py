"""Rule 3, fresh: every interleaving of a small world, then real threads.

The promises are those of the model of freshness: the snapshot that serves an event shows the
event's change, in every part; of all snapshots used, the one with the greatest t shows the final
state.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import Transient
from nsps.portabilling.freshness import Fresh, FreshReads, ReadQueue, SharedRead, WaitedTooLong
from nsps_testing.waiting import wait_for

CHANGES = 2
CHANGE_OF = (1, 2, 1)  # event 0 and 2 tell of change 1, event 1 of change 2
FAULTS = 1

Parts = tuple[int, ...]


def stamp(number: int, event: int) -> SnapshotTime:
    return SnapshotTime(f"2026-11-21T00:00:00.{number:06}Z/e{event}")


@dataclass
class Event:
    received: SnapshotTime | None = None
    shared: SharedRead[Parts] | None = None
    parts: Parts | None = None  # what it has read so far, if it does the shared read
    served: Fresh[Parts] | None = None


@dataclass
class World:
    line: ReadQueue[Parts]
    clock: int = 0
    changes: int = 0
    faults: int = 0
    cache: Fresh[Parts] | None = None
    events: list[Event] = field(default_factory=lambda: [Event() for _ in CHANGE_OF])

    def copy(self) -> World:
        copies: dict[int, SharedRead[Parts]] = {}

        def shared(one: SharedRead[Parts] | None) -> SharedRead[Parts] | None:
            if one is None:
                return None
            return copies.setdefault(id(one), replace(one))

        line = type(self.line)(shared(self.line.running), shared(self.line.waiting))
        events = [replace(each, shared=shared(each.shared)) for each in self.events]
        return World(line, self.clock, self.changes, self.faults, self.cache, events)

    def key(self) -> object:
        names: dict[int, int] = {}

        def shared(one: SharedRead[Parts] | None) -> object:
            if one is None:
                return None
            number = names.setdefault(id(one), len(names))
            return number, one.t, one.joined, one.completed, one.error is not None

        events = tuple((e.received, shared(e.shared), e.parts, e.served) for e in self.events)
        line = shared(self.line.running), shared(self.line.waiting)
        return self.clock, self.changes, self.faults, self.cache, line, events


def steps(world: World, cache_looks: bool = True) -> Iterator[World]:
    """Every state that one step leads to."""

    def after(change: Callable[[World], object]) -> World:
        copy = world.copy()
        change(copy)
        return copy

    if world.changes < CHANGES:
        yield after(lambda w: setattr(w, "changes", w.changes + 1))
    if world.cache is not None:
        yield after(lambda w: setattr(w, "cache", None))  # it runs out
    for number, event in enumerate(world.events):
        if event.served is not None:
            continue
        if event.received is None:
            if CHANGE_OF[number] <= world.changes:
                yield after(partial(_receive, number=number))
        elif event.shared is None:
            yield after(partial(_arrive, number=number, cache_looks=cache_looks))
        else:
            yield from _sharing(world, number, after)


def _sharing(
    world: World, number: int, after: Callable[[Callable[[World], object]], World]
) -> Iterator[World]:
    event = world.events[number]
    assert event.shared is not None
    if event.parts is not None:
        if len(event.parts) < 2:
            yield after(lambda w: _read_part(w.events[number], w.changes))
        else:
            yield after(lambda w: _land(w, w.events[number]))
        if world.faults < FAULTS:
            yield after(lambda w: _crash(w, w.events[number]))
        return
    if event.shared.over:
        yield after(lambda w: _served(w.events[number]))
        return
    begun = world.copy()
    shared = begun.events[number].shared
    assert shared is not None
    if begun.line.begin(shared):
        begun.events[number].parts = ()
        yield begun
    if world.faults < FAULTS:
        yield after(lambda w: _leave(w, w.events[number]))


def _receive(world: World, number: int) -> None:
    world.clock += 1
    world.events[number].received = stamp(world.clock, number)


def _arrive(world: World, number: int, cache_looks: bool) -> None:
    event = world.events[number]
    assert event.received is not None
    if world.cache is not None and (world.cache.t >= event.received or not cache_looks):
        event.served = world.cache
    else:
        event.shared = world.line.join(event.received)


def _read_part(event: Event, changes: int) -> None:
    assert event.parts is not None
    event.parts = (*event.parts, changes)


def _land(world: World, event: Event) -> None:
    assert event.shared is not None
    assert event.parts is not None
    event.served = world.cache = world.line.complete(event.shared, event.parts)


def _crash(world: World, event: Event) -> None:
    """The read fails: all who joined get the error, and are handled again with a new receipt."""
    assert event.shared is not None
    world.faults += 1
    world.line.fail(event.shared, Transient("no"))
    _again(event)


def _leave(world: World, event: Event) -> None:
    assert event.shared is not None
    world.faults += 1
    world.line.leave(event.shared)
    _again(event)


def _served(event: Event) -> None:
    assert event.shared is not None
    if event.shared.completed is not None:
        event.served = event.shared.completed
    else:
        _again(event)


def _again(event: Event) -> None:
    event.received = event.shared = event.parts = None


def judge(world: World) -> str | None:
    used = [(n, e.received, e.served) for n, e in enumerate(world.events) if e.served]
    for number, received, fresh in used:
        assert received is not None
        if min(fresh.value) < CHANGE_OF[number]:
            return f"e{number} got a snapshot that does not show its change"
        if fresh.t < received:
            return f"e{number} got a snapshot older than its receipt"
    if len(used) < len(world.events):
        return None
    newest = max((fresh for _, _, fresh in used), key=lambda fresh: fresh.t)
    if min(newest.value) < CHANGES:
        return "the snapshot with the greatest t does not show the final state"
    reads = {(fresh.t, fresh.value) for _, _, fresh in used}
    if len({t for t, _ in reads}) != len(reads):
        return "two reads have the same t"
    return None


def explore(line: ReadQueue[Parts], cache_looks: bool = True) -> tuple[str | None, int]:
    """The first thing that is wrong in any state that can be reached, and how many states."""
    start = World(line)
    seen, waiting = {start.key()}, [start]
    while waiting:
        world = waiting.pop()
        wrong = judge(world)
        if wrong:
            return wrong, len(seen)
        following = list(steps(world, cache_looks))
        if not following and not all(event.served for event in world.events):
            return "stuck", len(seen)
        for each in following:
            key = each.key()
            if key not in seen:
                seen.add(key)
                waiting.append(each)
    return None, len(seen)


def test_every_interleaving_keeps_the_promises() -> None:
    wrong, states = explore(ReadQueue())
    assert wrong is None
    assert states > 10_000


class JoinsAnyRead(ReadQueue[Parts]):
    def join(self, received: SnapshotTime) -> SharedRead[Parts]:
        if self.running is not None:
            self.running.joined += 1
            return self.running
        return super().join(received)


class StampsAtTheEnd(ReadQueue[Parts]):
    def complete(self, shared: SharedRead[Parts], value: Parts) -> Fresh[Parts]:
        shared.t = max([shared.t, *([self.waiting.t] if self.waiting else [])])
        return super().complete(shared, value)


class KeepsTheFirstTime(ReadQueue[Parts]):
    def join(self, received: SnapshotTime) -> SharedRead[Parts]:
        before = self.waiting.t if self.waiting else None
        shared = super().join(received)
        if before is not None and shared is self.waiting:
            shared.t = before
        return shared


class NeverBegins(ReadQueue[Parts]):
    def fail(self, shared: SharedRead[Parts], error: BaseException) -> None:
        shared.error = error


@pytest.mark.parametrize("broken", [JoinsAnyRead, StampsAtTheEnd, KeepsTheFirstTime, NeverBegins])
def test_the_exploration_finds_each_rule_that_is_left_out(broken: type[ReadQueue[Parts]]) -> None:
    wrong, _ = explore(broken())
    assert wrong is not None


def test_the_exploration_finds_a_cache_that_does_not_look_at_the_receipt() -> None:
    wrong, _ = explore(ReadQueue(), cache_looks=False)
    assert wrong is not None


# --- with threads --------------------------------------------------------------------------------


class Clock:
    """Commit times as Firestore gives them: greater for each write, wherever it is made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0

    def commit(self, event: int = 0) -> SnapshotTime:
        with self._lock:
            self._number += 1
            return stamp(self._number, event)


def test_a_burst_costs_a_handful_of_reads() -> None:
    reads: FreshReads[int] = FreshReads()
    clock = Clock()
    count = [0]

    def read() -> int:
        count[0] += 1
        time.sleep(0.02)
        return count[0]

    def handle(number: int) -> bool:
        received = clock.commit(number)
        fresh = reads.get("account:1", received, read)
        return fresh.t >= received

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(handle, range(200)))
    assert count[0] <= 12
    assert not reads._keys


@pytest.mark.parametrize("seed", range(4))
def test_threads_keep_the_promises(seed: int) -> None:
    """Changes, receipts and reads at random instants; small keys, real threads."""
    chance = random.Random(seed)
    reads: FreshReads[Parts] = FreshReads(ttl_seconds=chance.choice([0, 5]))
    clock = Clock()
    state = [0]
    served: list[tuple[int, SnapshotTime, Fresh[Parts]]] = []
    flights = [0]
    in_flight = [0]

    def read() -> Parts:
        in_flight[0] += 1
        assert in_flight[0] == 1
        flights[0] += 1
        time.sleep(chance.random() / 2000)
        first = state[0]
        time.sleep(chance.random() / 2000)
        result = (first, state[0])
        in_flight[0] -= 1
        return result

    def handle(change: int) -> None:
        time.sleep(chance.random() / 500)
        received = clock.commit(change)
        time.sleep(chance.random() / 1000)
        served.append((change, received, reads.get("k", received, read)))

    with ThreadPoolExecutor(16) as pool:
        for change in range(1, 151):
            state[0] = change
            pool.submit(handle, change)
            if not change % 10:
                time.sleep(0.002)
    assert len(served) == 150
    for change, received, fresh in served:
        assert min(fresh.value) >= change
        assert fresh.t >= received
    newest = max((fresh for _, _, fresh in served), key=lambda fresh: fresh.t)
    assert min(newest.value) == 150
    assert len({fresh.t for _, _, fresh in served}) == len({id(f) for _, _, f in served})
    assert flights[0] <= 150


class Gate:
    """A read that waits to be let go, and how many have begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self) -> str:
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        return "read"


def _aboard_next(reads: FreshReads[str], key: str) -> int:
    at = reads._keys.get(key)
    return at.reads.waiting.joined if at and at.reads.waiting else 0


def test_an_error_is_given_to_all_who_waited_and_the_next_read_is_tried_anew() -> None:
    reads: FreshReads[str] = FreshReads()
    gate = Gate()
    gate.error = Transient("PortaBilling is away")
    with ThreadPoolExecutor(8) as pool:
        leader = pool.submit(reads.get, "k", stamp(1, 0), gate)
        assert gate.begun.acquire(timeout=10)
        same = pool.submit(reads.get, "k", stamp(1, 0), gate)
        later = [pool.submit(reads.get, "k", stamp(2 + n, n), gate) for n in range(3)]
        wait_for(lambda: _aboard_next(reads, "k") == 3)
        wait_for(lambda: reads._keys["k"].reads.running.joined == 2)  # type: ignore[union-attr]
        gate.go.release()
        for each in (leader, same):
            with pytest.raises(Transient, match="away"):
                each.result(10)
        assert gate.begun.acquire(timeout=10)
        gate.error = None
        gate.go.release()
        assert {each.result(10) for each in later} == {Fresh("read", stamp(4, 2))}
    assert not reads._keys


def test_an_interrupted_leader_leaves_nobody_waiting() -> None:
    reads: FreshReads[str] = FreshReads()
    begun, go = threading.Event(), threading.Event()

    def read() -> str:
        begun.set()
        go.wait(10)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(reads.get, "k", stamp(1, 0), read)
        assert begun.wait(10)
        waiting = pool.submit(reads.get, "k", stamp(1, 0), read)
        wait_for(lambda: reads._keys["k"].reads.running.joined == 2)  # type: ignore[union-attr]
        go.set()
        with pytest.raises(KeyboardInterrupt):
            leader.result(10)
        with pytest.raises(Transient, match="cut off"):
            waiting.result(10)
    assert not reads._keys


def test_waiting_has_an_end() -> None:
    reads: FreshReads[str] = FreshReads(wait_seconds=0.05)
    gate = Gate()
    with ThreadPoolExecutor(3) as pool:
        leader = pool.submit(reads.get, "k", stamp(1, 0), gate)
        assert gate.begun.acquire(timeout=10)
        with pytest.raises(WaitedTooLong):
            reads.get("k", stamp(2, 1), gate)
        gate.go.release()
        assert leader.result(10).t == stamp(1, 0)
    assert not reads._keys


def test_other_keys_do_not_wait() -> None:
    reads: FreshReads[str] = FreshReads()
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(reads.get, "k", stamp(1, 0), gate)
        assert gate.begun.acquire(timeout=10)
        assert reads.get("other", stamp(2, 1), lambda: "at once").value == "at once"
        gate.go.release()
        leader.result(10)


def test_the_cache_serves_who_was_received_before_its_read_began_and_nobody_else() -> None:
    now = [0.0]
    reads: FreshReads[int] = FreshReads(ttl_seconds=5, clock=lambda: now[0])
    count = iter(range(100))
    first = reads.get("k", stamp(5, 0), lambda: next(count))
    assert reads.get("k", stamp(4, 1), lambda: next(count)) is first
    assert reads.get("k", stamp(6, 2), lambda: next(count)).value == 1
    now[0] = 4.9
    assert reads.get("k", stamp(5, 3), lambda: next(count)).value == 1
    now[0] = 5.0
    assert reads.get("k", stamp(5, 4), lambda: next(count)).value == 2


@pytest.mark.parametrize(("ttl", "kept"), [(0.0, 10), (5.0, 0)])
def test_no_cache_at_all(ttl: float, kept: int) -> None:
    reads: FreshReads[int] = FreshReads(ttl_seconds=ttl, kept=kept)
    count = iter(range(100))
    reads.get("k", stamp(5, 0), lambda: next(count))
    assert reads.get("k", stamp(4, 1), lambda: next(count)).value == 1


def test_the_cache_is_bounded() -> None:
    reads: FreshReads[int] = FreshReads(kept=3)
    for number in range(50):
        reads.get(number, stamp(number, 0), lambda n=number: n)  # type: ignore[misc]
    assert list(reads._cache) == [47, 48, 49]
    assert not reads._keys
