"""What may happen in a history, for Hypothesis to choose from."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.machine.cloud import Cloud
from tests.machine.steps import Go
from tests.machine.world import HANDLERS, STEPS, World

ANY = st.integers(0, 7)
FEW = st.integers(0, 2)
TWO = st.integers(0, 1)
CHANGES = st.sampled_from(["block", "unblock", "assign", "swap", "release", "move", "move"])
DEPLOYMENTS = [("sims",), ("sims",), ("orders",), ("letters",), ("partner",), HANDLERS]
"""With one handler more happens to it in a history, and a history takes less time."""
RARELY = st.sampled_from([False, False, False, True])

OPERATIONS = 30
"""In a history, at most."""
MOST_EVENTS = 9
"""A history with so many has enough to do; more would only take longer."""

played: Counter[str] = Counter()
"""Histories, and operations in them."""


class Machine(RuleBasedStateMachine):
    """Generates histories; each is judged at its end."""

    cloud: ClassVar[Cloud]

    @initialize(handlers=st.sampled_from(DEPLOYMENTS), what=st.sampled_from(["move", "release"]))
    def begins(self, handlers: tuple[str, ...], what: str) -> None:
        """A card is given to an account, and two things happen to it."""
        self.world = World(self.cloud, handlers)
        played["histories"] += 1
        for change in ("assign", "block", what):
            self.world.change(change, 1 if change == "move" else 0, 0)
            self.world.send_through()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.judge()
        except BaseException:
            note("\n".join(self.world.history))
            raise
        finally:
            played["operations"] += len(self.world.history)
            played["attempts"] += self.world.started
            self.world.close()

    # ---- PortaBilling and ESPF

    @precondition(lambda self: self.world.events < MOST_EVENTS)
    @rule(what=CHANGES, account=TWO, card=TWO)
    def happens(self, what: str, account: int, card: int) -> None:
        """Something changes, and its events come as far as the handlers' subscriptions."""
        self.world.change(what, account, card)
        self.world.send_through()

    @precondition(lambda self: self.world.events < MOST_EVENTS)
    @rule(what=CHANGES, account=TWO, card=TWO, also=CHANGES)
    def happen(self, what: str, account: int, card: int, also: str) -> None:
        """Two things, one after the other."""
        self.happens(what, account, card)
        self.happens(also, 1 - account, card)

    @precondition(lambda self: self.world.events < MOST_EVENTS)
    @rule(what=CHANGES, account=TWO, card=TWO)
    def change(self, what: str, account: int, card: int) -> None:
        self.world.change(what, account, card)

    @precondition(lambda self: self.world.waiting)
    @rule(number=ANY, slot=TWO, twice=RARELY)
    def send(self, number: int, slot: int, twice: bool) -> None:
        self.world.send(number, slot, twice=twice)

    @rule(trouble=st.sampled_from(["tokens", "fails", "status"]))
    def portabilling(self, trouble: str) -> None:
        self.world.portabilling(trouble)

    # ---- attempts

    @precondition(lambda self: self.world.bag)
    @rule(number=ANY, slot=TWO, stops=st.integers(0, 7), twice=RARELY)
    def deliver(self, number: int, slot: int, stops: int, twice: bool) -> None:
        """A message is brought, and its attempt goes so many stops."""
        self.world.deliver(number, slot, stops=stops, twice=twice)

    @precondition(lambda self: self.world.bag)
    @rule(number=ANY, other=ANY, how=st.sampled_from(list(Go)), stops=st.sampled_from([0, 1, 99]))
    def race(self, number: int, other: int, how: Go, stops: int) -> None:
        """A message is brought; something happens at its call; another is brought meanwhile."""
        self.world.deliver(number, 0)
        self.world.hurt_at(-1, "calls", how)
        self.world.deliver(other, 1, stops=stops)

    @precondition(lambda self: self.world.bag)
    @rule(number=ANY)
    def bring(self, number: int) -> None:
        """A message is brought, and its attempt runs to its end."""
        self.world.deliver(number, stops=99)

    @precondition(lambda self: self.world.attempts)
    @rule(number=ANY)
    def step(self, number: int) -> None:
        self.world.step(number)

    @precondition(lambda self: self.world.attempts)
    @rule(number=ANY)
    def run_on(self, number: int) -> None:
        self.world.run(number)

    @precondition(lambda self: self.world.attempts)
    @rule(number=ANY, how=st.sampled_from([Go.LOST, Go.FAIL, Go.LATE]))
    def hurt(self, number: int, how: Go) -> None:
        self.world.hurt(number, how)

    @precondition(lambda self: self.world.attempts)
    @rule(
        number=ANY,
        where=st.sampled_from(["calls", "calls", "called", "records", "publishes", "posts"]),
        how=st.sampled_from([Go.LOST, Go.FAIL, Go.LATE, Go.LATE]),
    )
    def hurt_at(self, number: int, where: str, how: Go) -> None:
        self.world.hurt_at(number, where, how)

    @precondition(lambda self: self.world.attempts)
    @rule(number=ANY, late=st.booleans())
    def crash(self, number: int, late: bool) -> None:
        self.world.crash(number, late=late)

    # ---- external systems

    @rule(number=FEW, what=st.sampled_from(["refuse", "refuse", "busy", "down", "up"]))
    def trouble(self, number: int, what: str) -> None:
        self.world.trouble(number, what)

    @precondition(lambda self: any(s.under_way for s in self.world.systems.values()))
    @rule(number=FEW)
    def land(self, number: int) -> None:
        self.world.land(number)

    @precondition(lambda self: self.world.orders.open())
    @rule(number=TWO, done=st.sampled_from([True, True, False]), notifies=st.booleans())
    def answer(self, number: int, done: bool, notifies: bool) -> None:
        self.world.answer(number, done=done)
        if notifies:
            self.world.notify(-1, stops=99)

    @precondition(lambda self: self.world.orders.notices)
    @rule(number=TWO, slot=TWO, stops=st.integers(0, 5), twice=RARELY)
    def notify(self, number: int, slot: int, stops: int, twice: bool) -> None:
        self.world.notify(number, slot, stops=stops, twice=twice)

    # ---- operators and time

    @rule(slot=TWO, stops=st.sampled_from([0, 2, 5, 99, 99]))
    def tick(self, slot: int, stops: int) -> None:
        self.world.tick(slot, stops=stops)

    @rule(
        what=st.sampled_from(["pause", "resume", "reconcile", "replay", "replay_unread"]),
        number=ANY,
    )
    def operate(self, what: str, number: int) -> None:
        """An operator's command; an event that is replayed unread is that of a change made now."""
        if what == "replay":
            self.world.replay(number, number)
        elif what == "replay_unread":
            self.world.change("unblock" if number % 2 else "block", 0)
            self.world.replay_unread(number)
        else:
            getattr(self.world, what)(number)

    @rule(seconds=st.sampled_from(STEPS))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)


def play(cloud: Cloud, histories: int, *, dice: bool = False, shrink: bool = True) -> None:
    """Play so many histories. Raises AssertionError, with a short one that breaks a promise.

    ``dice``: other histories each time. ``shrink``: False where any broken history will do.
    """
    Machine.cloud = cloud
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=OPERATIONS,
            derandomize=not dice,
            database=None,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
