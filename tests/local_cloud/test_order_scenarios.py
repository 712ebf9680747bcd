"""The order model's scenarios on the real ledger: orders that are answered later.

An order manager that carries orders out in any order and answers under its own id or under our
reference; callbacks that crash and answer twice; deliveries that join, queue up and come again.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import order_model
import provisioning_model as model
import pytest
from nsps.cloud.store import Store
from nsps.delivery.ledger import orders as orders_module
from nsps.delivery.ledger import protocol
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import (
    DOUBT_SECONDS,
    Ledger,
    Progress,
    Stage,
    Work,
    order_reference,
)
from nsps.delivery.ledger.orders import AnswerEffect, LateAnswer, Orders, Settlement
from nsps.delivery.ledger.protocol import CallEnd, Step, Todo
from nsps.domain.outcome import AnswerState, Outcome
from nsps_local.firestore import FirestoreServer

from tests.local_cloud.firestore_kit import new_store
from tests.local_cloud.ledger_kit import Broken, Clock, work_of

SEEDS = int(os.environ.get("NSPS_LEDGER_SEEDS", "6"))
FIRST = int(os.environ.get("NSPS_LEDGER_FIRST_SEED", "1"))
MOST_STEPS = 600
_handlers = itertools.count(1)


@dataclass
class Placed:
    """An order that the order manager has."""

    ident: str
    reference: str
    key: str
    value: str
    said: AnswerState | None = None
    answered: bool = False


@dataclass
class Manager:
    """The order manager, and the promise that one order at a time is open for a key."""

    states: dict[str, str]
    orders: dict[str, Placed] = field(default_factory=dict)

    def submit(self, reference: str, key: str, value: str) -> str:
        if reference not in self.orders:
            if any(other.key == key and other.said is None for other in self.orders.values()):
                raise Broken(f"two orders are open for {key}")
            ident = f"om-{len(self.orders)}"
            self.orders[reference] = Placed(ident, reference, key, value)
        return self.orders[reference].ident

    def carry_out(self, order: Placed, said: AnswerState) -> None:
        order.said = said
        if said is AnswerState.DONE:
            self.states[order.key] = order.value


@dataclass
class Actor:
    """One message of a delivery; ``again``: the delivery is sent again, enriched anew."""

    job: Any
    at: str = "begin"  # begin, call, submitted, refused, ended
    work: Work | None = None
    progress: Progress = field(default_factory=lambda: Progress(Stage.FINISHED))
    waits: bool = False
    again: bool = False
    ident: str = ""


class Played:
    """One world by one seed."""

    def __init__(self, store: Store, clock: Clock, scenario: Any, world: Any, seed: str) -> None:
        self.store, self.clock, self.scenario, self.world = store, clock, scenario, world
        self.handler = f"om{next(_handlers)}"
        self.dice = random.Random(seed)
        self.ledger, self.orders = Ledger(replace(store, clock=clock)), Orders(store)
        self.faults, self.refusals = scenario.faults, scenario.refusals
        self.actors = [Actor(job) for job in world.jobs]
        self.now = 1 + max(job.t for job in world.jobs)
        self.manager = Manager({sim: scenario.initial.expected(sim) for sim in model.SIMS})
        self.pace = self.dice.choice([0.2, 1.0])
        """How soon orders are carried out."""
        self.passes = 5
        """How often leases run out while work is going on: never as long as a doubt lasts."""
        self.cut: list[str] = []
        self.history: list[str] = []
        self.steps = 0
        for key, state in self.manager.states.items():
            if state != model.ABSENT:
                doc = {"key": key, "owner": f"account:{state[0]}", "confirmed": state}
                store.resource(self.handler, key).set(doc)

    def run(self) -> None:
        try:
            while not self.quiet():
                self.step()
            self.judge()
        except AssertionError as error:
            actors = [f"a{me}: {each.job}" for me, each in enumerate(self.actors)]
            lines = [self.scenario.initial.in_words(), *self.world.history, *actors, *self.history]
            raise Broken("\n".join([*lines, f"BROKEN: {error}"])) from error

    def quiet(self) -> bool:
        ended = all(each.at == "ended" and not each.again for each in self.actors)
        answered = all(order.answered for order in self.manager.orders.values())
        return ended and answered and not self.cut

    # ---- one step after the other ----------------------------------------------------------------

    def step(self) -> None:
        self.steps += 1
        assert self.steps < MOST_STEPS, "it never ends"
        able: list[tuple[Any, Any]] = [
            (self._attempt, me)
            for me, each in enumerate(self.actors)
            if (each.at != "ended" and not each.waits) or (each.at == "ended" and each.again)
        ]
        placed = list(self.manager.orders.values())
        opened = [(self._carry_out, order) for order in placed if order.said is None]
        able += [(self._answer, order) for order in placed if order.said and not order.answered]
        able += [(self._tick, reference) for reference in self.cut]
        able += opened if self.dice.random() < self.pace else []
        if self.passes and self.dice.random() < 0.1:
            self.passes -= 1
            self.history.append("the leases run out")
            self.clock.pass_the_leases()
            self._wake()
            return
        if not able and not opened:
            self.history.append("the leases run out, the doubt passes")
            for _ in range(1 + int(DOUBT_SECONDS // 60) + 1):
                self.clock.pass_the_leases()
            self._wake()
            return
        what, on = self.dice.choice(able or opened)
        what(on)

    def _wake(self) -> None:
        for actor in self.actors:
            actor.waits = False

    def _attempt(self, me: int) -> None:
        actor = self.actors[me]
        if actor.at == "ended":
            content = getattr(self.world.final, actor.job.owner)
            fresh = {"t": self.now, "sim": content.sim, "blocked": content.blocked}
            actor.job, actor.again, actor.at = actor.job._replace(**fresh), False, "begin"
            self.now += 1
            self.history.append(f"a{me} is enriched again: {actor.job}")
            return
        if self.faults and actor.at != "begin" and self.dice.random() < 0.15:
            self._crash(me, "crashes")
            return
        {
            "begin": self._begin,
            "call": self._call,
            "submitted": self._accepted,
            "refused": self._refused,
        }[actor.at](me, actor)

    def _crash(self, me: int, how: str) -> None:
        self.faults -= 1
        self.history.append(f"a{me} {how}")
        self.actors[me].at = "begin"
        self._wake()

    def _begin(self, me: int, actor: Actor) -> None:
        actor.work = work_of(actor.job, self.handler)
        self._went(me, actor, self.ledger.begin(actor.work, {}), "begins")

    def _call(self, me: int, actor: Actor) -> None:
        """The call, as the kit makes it: the order is written down, then submitted."""
        assert actor.work is not None
        if not self.ledger.may_call(actor.work, actor.progress):
            actor.at = "begin"
            return
        step = performed(actor.progress)
        reference = self.ledger.intend(actor.work, step, "modify")
        value = model.ABSENT if step.todo is Todo.RELEASE else str(step.wanted)
        known = reference in self.manager.orders
        if self.refusals and not known and self.dice.random() < 0.3:
            self.refusals -= 1
            self.history.append(f"a{me}'s order for {step.key} is refused")
            actor.at = "refused"
            return
        lost = self.faults and self.dice.random() < 0.25
        if not lost or self.dice.random() < 0.5:
            actor.ident = self.manager.submit(reference, step.key, value)
            self.history.append(f"a{me} submits {step.key} = {value}: {actor.ident}")
        if not lost:
            actor.at = "submitted"
            return
        answered = self.dice.random() < 0.3 and not (reference in self.manager.orders and not known)
        unanswered = self.dice.choice([CallEnd.UNCLEAR, CallEnd.UNDER_WAY])
        call = CallEnd.NOT_DONE if answered else unanswered
        self.ledger.not_done(actor.work, actor.progress, "try later", call=call)
        self._crash(me, f"gets {call.name}")

    def _accepted(self, me: int, actor: Actor) -> None:
        assert actor.work is not None
        went = self.ledger.accepted(actor.work, actor.progress, actor.ident, {})
        self._went(me, actor, went, f"notes the acceptance of {actor.ident}")

    def _refused(self, me: int, actor: Actor) -> None:
        assert actor.work is not None
        went = self.ledger.refused(actor.work, actor.progress, "refused for good")
        self._went(me, actor, went, "is refused")

    def _went(self, me: int, actor: Actor, went: Progress, what: str) -> None:
        self.history.append(f"a{me} {what}: {went.at.name} {went.outcome.value}")
        actor.progress = went
        if went.at is not Stage.BUSY:
            self._wake()
        actor.at = {Stage.CALL: "call", Stage.BUSY: "begin", Stage.LOST: "begin"}.get(
            went.at, "ended"
        )
        actor.waits = went.at is Stage.BUSY

    # ---- the order manager and the callbacks -----------------------------------------------------

    def _carry_out(self, order: Placed) -> None:
        fails = self.refusals > 0 and self.dice.random() < 0.3
        self.refusals -= fails
        self.manager.carry_out(order, AnswerState.FAILED if fails else AnswerState.DONE)
        self.history.append(f"{order.ident} is {order.said}: {order.key} = {order.value}")

    def _answer(self, order: Placed) -> None:
        assert order.said is not None
        name = self.dice.choice([order.ident, order.reference])
        settlement = self.orders.record(self.handler, LateAnswer(name, order.said, "its answer"))
        self.history.append(f"the answer of {order.ident} under {name}: {settlement.effect.value}")
        order.answered = not (self.faults and self.dice.random() < 0.2)  # else it comes once more
        self.faults -= not order.answered
        self._complete(settlement)

    def _tick(self, reference: str) -> None:
        self.cut.remove(reference)
        self.history.append(f"a tick completes {reference}")
        self._complete(self.orders.complete(self.handler, reference))

    def _complete(self, settlement: Settlement) -> None:
        if settlement.effect in (AnswerEffect.UNKNOWN, AnswerEffect.LATE):
            return
        if self.faults and self.dice.random() < 0.2:
            self.faults -= 1
            self.history.append("the callback crashes")
            self.cut.append(settlement.reference)
            return
        for delivery in settlement.followers:
            self.history.append(f"{delivery} is sent again")
            number = int(delivery.removeprefix("d"))
            actor = next(each for each in self.actors if each.job.delivery == number)
            actor.again = True
        self.orders.settle(self.handler, settlement.reference, settlement.followers)
        self._wake()

    # ---- the end ---------------------------------------------------------------------------------

    def judge(self) -> None:
        rejected = set()
        for number in {job.delivery for job in self.world.jobs}:
            data = self.store.read(self.store.delivery(self.handler, f"d{number}")) or {}
            outcome = data.get("outcome")
            assert outcome is not None, f"d{number} has no outcome"
            assert Outcome(outcome).final, f"d{number} waits for ever: {outcome}"
            answers = {self._answer_of(name) for name in data.get("orders", [])}
            if outcome == Outcome.DELIVERED:
                assert "failed" not in answers, f"d{number} is delivered, its order failed"
            if outcome == Outcome.REJECTED:
                rejected.add(number)
        for sim in model.SIMS:
            expected, actual = self.world.final.expected(sim), self.manager.states[sim]
            if expected != actual:
                assert rejected, f"{sim}: PortaBilling says {expected}, the system has {actual}"
            known = Resource.read(self.store.read(self.store.resource(self.handler, sim)))
            assert known.pending is None or known.pending.doubt_until, f"{sim}: {known}"
            if not known.dirty:
                assert (known.confirmed or model.ABSENT) == actual, f"the ledger is wrong: {known}"

    def _answer_of(self, reference: str) -> Any:
        return (self.store.read(self.store.order(self.handler, reference)) or {}).get("answer")


def performed(progress: Progress) -> Step:
    """What the kit does about the step."""
    assert progress.step is not None
    if progress.dropping:
        return replace(progress.step, todo=Todo.RELEASE, wanted=None)
    return progress.step


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Clock]]:
    state: Path = tmp_path_factory.mktemp("firestore")
    with FirestoreServer(state) as running:
        yield new_store(running.target), Clock(running.control_url)


@pytest.mark.timeout(60 + 10 * SEEDS)
@pytest.mark.parametrize("name", [each.name for each in order_model.SCENARIOS])
def test_random_schedules_with_late_answers(name: str, store: tuple[Store, Clock]) -> None:
    one = next(each for each in order_model.SCENARIOS if each.name == name)
    worlds = model.worlds(one, model.Rules())
    for seed in range(FIRST, FIRST + SEEDS):
        world = random.Random(f"{name}/{seed}").choice(worlds)
        Played(*store, one, world, f"{name}/orders/{seed}").run()


def _waits_unless_superseded(delivery: Any) -> bool:
    return delivery.get("outcome") not in (Outcome.SUPERSEDED, Outcome.EXPIRED)


MUTANTS: dict[str, tuple[str, tuple[Any, str, Any]]] = {
    "doubt": ("block, unblock", (protocol, "intend", lambda resource, *_: resource)),
    "own": ("refusal: swap A for B", (orders_module, "_waits", _waits_unless_superseded)),
}


@pytest.mark.parametrize("rule", list(MUTANTS))
def test_a_rule_of_orders_left_out_breaks_a_promise(
    rule: str, store: tuple[Store, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, mutant = MUTANTS[rule]
    monkeypatch.setattr(*mutant)
    one = next(each for each in order_model.SCENARIOS if each.name == name)
    worlds = model.worlds(one, model.Rules())
    with pytest.raises(Broken):
        for seed in range(400):
            dice = random.Random(f"{name}/{seed}")
            Played(*store, one, dice.choice(worlds), f"{name}/orders/{seed}").run()


# --- what went wrong once -------------------------------------------------------------------------


def ordered(store: Store, clock: Clock, job: Any) -> tuple[Ledger, str, Work, Progress, str]:
    """An order that is submitted, and whose acceptance is not noted yet."""
    handler = f"om{next(_handlers)}"
    ledger, work = Ledger(replace(store, clock=clock)), work_of(job, handler)
    progress = ledger.begin(work, {})
    assert progress.at is Stage.CALL
    return ledger, handler, work, progress, ledger.intend(work, performed(progress), "add")


X_HAS_A = model.Job(0, "X", "A", False, 1)
Y_HAS_A = model.Job(1, "Y", "A", False, 2)


def resource_of(store: Store, handler: str, key: str) -> Resource:
    return Resource.read(store.read(store.resource(handler, key)))


def test_an_answer_between_looking_for_the_order_and_keeping_it_is_not_lost(
    store: tuple[Store, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acceptance was noted just after the callback had found no order of this id."""
    ledger, handler, work, progress, _ = ordered(*store, X_HAS_A)
    find = Orders._find

    def found_too_early(self: Orders, *names: str) -> str | None:
        found = find(self, *names)
        assert ledger.accepted(work, progress, "om-1", {}).outcome is Outcome.ACCEPTED
        return found

    monkeypatch.setattr(Orders, "_find", found_too_early)
    settlement = Orders(store[0]).record(handler, LateAnswer("om-1", AnswerState.DONE))
    assert settlement.effect is AnswerEffect.SETTLED
    data = store[0].read(store[0].delivery(handler, work.delivery))
    assert data is not None
    assert data["outcome"] == Outcome.DELIVERED


def test_the_removal_of_a_former_owners_state_is_an_order_of_its_own(
    store: tuple[Store, Clock],
) -> None:
    """It was noted under the refused claim's reference: its answer confirmed the claim."""
    cloud, clock = store
    handler = f"om{next(_handlers)}"
    claimed = {"key": "A", "owner": "account:X", "confirmed": "X active"}
    cloud.resource(handler, "A").set(claimed)
    ledger, work = Ledger(replace(cloud, clock=clock)), work_of(Y_HAS_A, handler)
    progress = ledger.begin(work, {})
    ledger.intend(work, performed(progress), "modify")
    progress = ledger.refused(work, progress, "no such profile")
    assert progress.dropping
    ledger.intend(work, performed(progress), "delete")
    went = ledger.accepted(work, progress, "om-2", {})
    assert (went.at, went.outcome) == (Stage.FINISHED, Outcome.REJECTED)
    assert (
        Orders(cloud).record(handler, LateAnswer("om-2", AnswerState.DONE)).effect
        is AnswerEffect.SETTLED
    )
    known = resource_of(cloud, handler, "A")
    assert (known.owner, known.confirmed, known.pending) == (None, None, None)
    data = cloud.read(cloud.delivery(handler, work.delivery)) or {}
    assert data["outcome"] == Outcome.REJECTED


def test_an_answer_that_takes_back_another_leaves_the_ledger_in_doubt(
    store: tuple[Store, Clock],
) -> None:
    cloud, _ = store
    ledger, handler, work, progress, reference = ordered(*store, X_HAS_A)
    ledger.accepted(work, progress, "om-3", {})
    orders, noon = Orders(cloud), datetime(2026, 11, 21, 12, tzinfo=UTC)
    orders.record(handler, LateAnswer(reference, AnswerState.DONE, at=noon))
    assert not resource_of(cloud, handler, "A").dirty
    later = LateAnswer(reference, AnswerState.FAILED, "rolled back", at=noon + timedelta(minutes=5))
    assert orders.record(handler, later).effect is AnswerEffect.CORRECTED
    assert resource_of(cloud, handler, "A").dirty
    data = cloud.read(cloud.delivery(handler, work.delivery)) or {}
    assert data["outcome"] == Outcome.REJECTED


def test_an_order_in_doubt_keeps_others_out_until_it_is_submitted_again(
    store: tuple[Store, Clock],
) -> None:
    """Two orders for one key were open when a submission got no answer."""
    ledger, handler, work, progress, reference = ordered(*store, X_HAS_A)
    ledger.not_done(work, progress, "no answer", call=CallEnd.UNDER_WAY)
    store[1].pass_the_leases()
    other = work_of(Y_HAS_A, handler)
    assert ledger.begin(other, {}).at is Stage.BUSY
    again = work_of(X_HAS_A, handler)
    progress = ledger.begin(again, {})
    assert progress.at is Stage.CALL
    assert ledger.intend(again, performed(progress), "add") == reference
    assert ledger.accepted(again, progress, "om-4", {}).at is Stage.FINISHED
    assert ledger.begin(work_of(Y_HAS_A, handler), {}).at is Stage.QUEUED


def test_an_order_that_was_not_taken_lets_the_next_go(store: tuple[Store, Clock]) -> None:
    ledger, handler, work, progress, _ = ordered(*store, X_HAS_A)
    ledger.not_done(work, progress, "503", call=CallEnd.NOT_DONE)
    assert ledger.begin(work_of(Y_HAS_A, handler), {}).at is Stage.CALL


X_HAS_B = model.Job(0, "X", "B", False, 1)


def swapped(store: Store, clock: Clock) -> tuple[Ledger, str, Work, Progress]:
    """X has B now: the removal of A is ordered and accepted, the order for B is written down."""
    handler = f"om{next(_handlers)}"
    had = {"key": "A", "owner": "account:X", "confirmed": "X active"}
    store.resource(handler, "A").set(had)
    ledger, work = Ledger(replace(store, clock=clock)), work_of(X_HAS_B, handler)
    progress = ledger.begin(work, {})
    ledger.intend(work, performed(progress), "delete")
    progress = ledger.accepted(work, progress, "om-A", {})
    assert progress.at is Stage.CALL
    ledger.intend(work, performed(progress), "add")
    return ledger, handler, work, progress


def answered(store: Store, handler: str, name: str) -> None:
    orders = Orders(store)
    settlement = orders.record(handler, LateAnswer(name, AnswerState.DONE))
    orders.settle(handler, settlement.reference, settlement.followers)


@pytest.mark.parametrize("name", ["om-B", "our reference"])
def test_a_delivery_whose_orders_were_all_answered_before_its_end_does_not_wait(
    name: str, store: tuple[Store, Clock]
) -> None:
    ledger, handler, work, progress = swapped(*store)
    answered(store[0], handler, "om-A")
    ours = order_reference(work, performed(progress))
    answered(store[0], handler, ours if name == "our reference" else name)
    went = ledger.accepted(work, progress, "om-B", {})
    assert (went.at, went.outcome) == (Stage.FINISHED, Outcome.DELIVERED)


def test_an_answer_does_not_undo_a_refusal(store: tuple[Store, Clock]) -> None:
    ledger, handler, work, progress = swapped(*store)
    assert ledger.refused(work, progress, "no such profile").outcome is Outcome.REJECTED
    answered(store[0], handler, "om-A")
    data = store[0].read(store[0].delivery(handler, work.delivery)) or {}
    assert data["outcome"] == Outcome.REJECTED


def test_an_answer_to_an_older_snapshots_order_does_not_finish_a_delivery_begun_anew(
    store: tuple[Store, Clock],
) -> None:
    ledger, handler, work, progress, reference = ordered(*store, X_HAS_A)
    ledger.accepted(work, progress, "om-5", {})
    newer = work_of(model.Job(0, "X", "A", True, 2), handler)
    assert ledger.begin(newer, {}).at is Stage.QUEUED
    settlement = Orders(store[0]).record(handler, LateAnswer(reference, AnswerState.DONE))
    assert settlement.followers == (work.delivery,)
    data = store[0].read(store[0].delivery(handler, work.delivery)) or {}
    assert data["outcome"] is None
