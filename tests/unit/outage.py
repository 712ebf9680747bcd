"""An outage in simulated time: the real schedules, breaker, gate, tick and ledger rules, and the
embedded Pub/Sub's own backlog and push window, with time that jumps to what happens next.

Nothing is shortened: an hour is an hour, and every event is an event of its own. What is not there:
processes, networks and disks. A call of the system takes a random time; everything else takes none.

Threads take turns, one at a time, so what they share needs no care and a run is its seed's.
"""

from __future__ import annotations

import heapq
import random
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, cast

from nsps.cloud.identity_token import IdentityTokens
from nsps.cloud.store import Store
from nsps.cloud.subscriptions import Subscriptions
from nsps.delivery.gate import Gate
from nsps.delivery.ledger import protocol
from nsps.delivery.ledger.documents import Delivery, Resource, Watermark
from nsps.delivery.ledger.protocol import Begun, Lease, Step, Taken, Todo
from nsps.delivery.switch import Switches
from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import Outcome
from nsps.domain.retry import PUSH
from nsps.flows.maintenance import Maintenance
from nsps.runtime.settings import HandlerLocation, HandlerSettings
from nsps.transport.http import Answer, Http
from nsps_local.pubsub.backlog import Backlog, Policy
from nsps_local.pubsub.backlog import Lease as Push
from nsps_local.pubsub.push import Window

START = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
LEASE_SECONDS = 15.0
ACK_SECONDS = 120.0


class VirtualTime:
    """Runs what is due next; a thread that sleeps is one of the things that are due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._free: deque[_Thread] = deque()
        self._turn = threading.Semaphore(0)
        self._running: _Thread | None = None

    def monotonic(self) -> float:
        return self.now

    def clock(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def at(self, moment: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (moment, next(self._order), what))

    def sleep(self, seconds: float) -> None:
        """For threads that ``start`` began."""
        thread = self._running
        assert thread is not None
        self.at(self.now + seconds, lambda: self._resume(thread))
        self._turn.release()
        thread.wakes.acquire()

    def start(self, what: Callable[[], None]) -> None:
        """Run something that may sleep; returns at its first sleep, or its end."""
        thread = self._free.popleft() if self._free else _Thread(self._turn, self._free)
        thread.work = what
        self._resume(thread)

    def run(self, until: Callable[[], bool], latest: float) -> None:
        """Go on until that is true; AssertionError after ``latest``."""
        while not until():
            moment, _, what = heapq.heappop(self._due)
            assert moment <= latest, f"not done after {latest:g} simulated seconds"
            self.now = max(self.now, moment)
            what()

    def _resume(self, thread: _Thread) -> None:
        before, self._running = self._running, thread
        thread.wakes.release()
        self._turn.acquire()
        self._running = before


class _Thread:
    """Does one piece of work after the other, for a VirtualTime."""

    def __init__(self, turn: threading.Semaphore, free: deque[_Thread]) -> None:
        self.wakes = threading.Semaphore(0)
        self.work: Callable[[], None] = lambda: None
        self._turn, self._free = turn, free
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.wakes.acquire()
            self.work()
            self._free.append(self)
            self._turn.release()


# ---- Firestore, as far as switches need it ---------------------------------------------------


@dataclass(frozen=True)
class _Reference:
    path: str
    documents: dict[str, dict[str, Any]]

    def set(self, fields: Mapping[str, Any], merge: bool) -> None:
        assert merge
        self.documents.setdefault(self.path, {}).update(fields)


@dataclass
class _Transaction:
    now: datetime
    documents: dict[str, dict[str, Any]]

    def read(self, references: Any) -> dict[str, dict[str, Any] | None]:
        return {each.path: self.documents.get(each.path) for each in references}

    def merge(self, reference: _Reference, fields: Mapping[str, Any]) -> None:
        reference.set(fields, merge=True)


@dataclass
class Documents:
    """The switches' documents; as only one thread runs at a time, each body is a transaction."""

    clock: Callable[[], datetime]
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)

    def handler(self, handler: str) -> _Reference:
        return _Reference(f"handlers/{handler}", self.documents)

    def read(self, reference: _Reference) -> dict[str, Any] | None:
        return self.documents.get(reference.path)

    def call(self, what: Callable[[], Any]) -> Any:
        return what()

    def transact(self, body: Callable[[Any], Any]) -> Any:
        return body(_Transaction(self.clock(), self.documents))


# ---- the system, Pub/Sub, the handler's function --------------------------------------------


@dataclass(frozen=True)
class Event:
    owner: str
    t: SnapshotTime
    sent_at: float


@dataclass
class Outage:
    """A deployment of one handler, whose system is down from ``down_at`` to ``up_at`` (seconds).

    ``rate``: events a second, about so many ``owners``. ``max_rate``: calls a second that the
    system bears; there are as many instances as the deployment would have for it. Each call takes
    it up to ``slow`` seconds.
    """

    rate: float
    max_rate: float
    down_at: float
    up_at: float
    owners: int
    slow: float = 0.04
    concurrency: int = 16
    chance: random.Random = field(default_factory=lambda: random.Random(4711))

    events: dict[int, Event] = field(default_factory=dict)
    """By the number of the message that brings it."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    calls: list[float] = field(default_factory=list)
    """When the system was called."""
    written: list[tuple[float, Event]] = field(default_factory=list)
    opened_at: float | None = None
    closed_at: float | None = None

    def __post_init__(self) -> None:
        self.time = VirtualTime()
        self.instances = max(1, int(self.max_rate) // self.concurrency)
        store = cast(Store, Documents(self.time.clock))
        self.switches = Switches(store)
        handler = HandlerSettings(
            name="hss",
            connector="sample",
            events=("SIM/*",),
            max_rate=self.max_rate,
            instance_rate=self.max_rate / self.instances,
        )
        self._gates = [
            Gate(
                handler,
                self.switches,
                clock=self.time.monotonic,
                sleep=self.time.sleep,
                ask=lambda: "HTTP 503" if self.down else None,
            )
            for _ in range(self.instances)
        ]
        self._busy = [0] * self.instances
        self._backlog = Backlog(
            Policy(ACK_SECONDS, PUSH.minimum, PUSH.maximum, PUSH.attempts, 31 * 86400)
        )
        self._window, self._in_flight = Window(), 0
        self._pushes = True
        self._open: set[int] = set()
        self._next_settle = float("inf")
        self._watermarks: dict[str, Watermark] = {}
        self._resources: dict[str, Resource] = {}
        url = "http://hss.example/"
        location = HandlerLocation(url=url, audience=url, subscription="projects/p/subscriptions/s")
        self._maintenance = Maintenance(
            {"hss": location},
            self.switches,
            lambda: cast(Subscriptions, self),
            cast(Http, self),
            cast(IdentityTokens, self),
        )
        self.time.at(0.0, self._publish)
        self.time.at(60.0, self._tick)

    @property
    def down(self) -> bool:
        return self.down_at <= self.time.now < self.up_at

    @property
    def waits(self) -> int:
        return len(self._backlog)

    def run(self, until: Callable[[], bool], latest: float) -> None:
        self.time.run(until, latest)

    # ---- what Maintenance asks of others -------------------------------------------------------

    def is_off(self, location: HandlerLocation) -> bool:
        return not self._pushes

    def turn(self, location: HandlerLocation, *, off: bool) -> None:
        self._pushes = not off
        if not off:
            self._shuffle()
        self._pump()

    def token(self, audience: str, deadline: object) -> str:
        return "token"

    def request(self, method: str, url: str, **more: Any) -> Answer:
        """The handler's own check of its system."""
        return Answer(503 if self.down else 200, {}, b"{}", url)

    def _shuffle(self) -> None:
        """Google's Pub/Sub brings what it kept in no order; the embedded one would."""
        numbers = list(self._open)
        events = [self.events[number] for number in numbers]
        self.chance.shuffle(events)
        self.events.update(zip(numbers, events, strict=True))

    # ---- what happens by itself ------------------------------------------------------------------

    def _publish(self) -> None:
        number = len(self.events) + 1
        owner = f"account:{self.chance.randrange(self.owners)}"
        self.events[number] = Event(owner, SnapshotTime(f"{number:09}"), self.time.now)
        self._open.add(number)
        self._backlog.add(number)
        self.time.at(number / self.rate, self._publish)
        self._pump()

    def _tick(self) -> None:
        breaker = self._maintenance.tick()[0]["hss"].breaker
        if self.time.now > self.up_at and breaker.state == "closed" and self.closed_at is None:
            self.closed_at = self.time.now
        self.time.at(self.time.now + 60, self._tick)

    def _settle(self) -> None:
        self._next_settle = float("inf")
        settled = self._backlog.settle(self.time.now)
        assert not settled.dropped and not any(each.dead for each in settled.failed)
        self._pump()

    def _pump(self) -> None:
        """Push what is ready, as far as the window goes."""
        while self._pushes and (room := self._window.room(self._in_flight)):
            pushes = self._backlog.lease(self.time.now, room)
            if not pushes:
                break
            for push in pushes:
                self._in_flight += 1
                self.time.start(lambda push=push: self._pushed(push))  # type: ignore[misc]
        due = self._backlog.next_event()
        if due is not None and due < self._next_settle:
            self._next_settle = due
            self.time.at(due, self._settle)

    def _pushed(self, push: Push) -> None:
        instance = min(range(self.instances), key=lambda each: self._busy[each])
        outcome = None
        if self._busy[instance] < self.concurrency:  # else: no instance is free
            self._busy[instance] += 1
            outcome = self._attempt(self._gates[instance], self.events[push.mid], push)
            self._busy[instance] -= 1
        self._in_flight -= 1
        if outcome is None:
            self._window.failed()
            self._backlog.nack(push.mid, push.token, self.time.now)
        else:
            self._window.succeeded()
            self._backlog.ack(push.mid, push.token)
            self._open.discard(push.mid)
            self.outcomes[outcome] += 1
            self.attempts[push.attempt] += 1
        self.time.at(self.time.now, self._pump)

    # ---- an attempt, as nsps.delivery.pipeline runs it ----------------------------------------

    def _attempt(self, gate: Gate, event: Event, push: Push) -> Outcome | None:
        """None: to come again."""
        mark = self._watermarks.get(event.owner, Watermark())
        if gate.slow and protocol.begin(Delivery(), mark, event.t) is Begun.SUPERSEDED:
            return Outcome.SUPERSEDED
        if gate.admit() is not None:
            return None
        mark = self._watermarks.get(event.owner, Watermark())
        if protocol.begin(Delivery(), mark, event.t) is Begun.SUPERSEDED:
            return Outcome.SUPERSEDED
        self._watermarks[event.owner] = Watermark(event.t)
        step = Step(Todo.CLAIM, event.owner, event.t)
        for _ in range(50):
            token = f"{push.mid}.{push.token}"
            until = self.time.clock() + timedelta(seconds=LEASE_SECONDS)
            taken, resource = protocol.take(
                step,
                self._resources.get(event.owner, Resource()),
                self._watermarks[event.owner],
                event.owner,
                event.t,
                Lease(token, self.time.clock(), until),
            )
            if taken is not Taken.BUSY:
                break
            self.time.sleep(0.1)
        if taken is not Taken.CALL:
            return protocol.OUTCOME_OF.get(taken)
        self._resources[event.owner] = resource
        return self._call(gate, event, step, token)

    def _call(self, gate: Gate, event: Event, step: Step, token: str) -> Outcome | None:
        gate.turn()
        self.calls.append(self.time.now)
        self.time.sleep(self.chance.uniform(0.005, self.slow))
        resource = self._resources[event.owner]
        if self.down:
            gate.failed(event.owner, "HTTP 503", None)
            if self.opened_at is None and self.switches.read("hss").off:
                self.opened_at = self.time.now
            self._resources[event.owner] = protocol.give_back(resource, token)
            return None
        gate.well()
        self.written.append((self.time.now, event))
        confirmed = protocol.confirm(resource, step, token)
        assert confirmed is not None, "the lease was long enough"
        self._resources[event.owner] = confirmed
        return Outcome.DELIVERED


def most_within(moments: list[float], seconds: float) -> int:
    """The most calls in any window of so many seconds."""
    return max(
        (bisect_left(moments, start + seconds) - index for index, start in enumerate(moments)),
        default=0,
    )
