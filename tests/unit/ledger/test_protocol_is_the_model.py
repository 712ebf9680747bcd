"""The ledger's pure protocol decides as the model does, in every state that the model reaches.

The model explores whole scenarios; in each state, for each attempt, the protocol takes the same
step with the same documents. What it decides and what it would write must be the model's step,
exactly. Mutants (the protocol with one rule left out) must differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import provisioning_model as model
import pytest
from nsps.delivery.ledger import protocol
from nsps.delivery.ledger.documents import Delivery, Resource, Watermark
from nsps.delivery.ledger.protocol import Begun, Lease, Step, Taken, Todo
from nsps.domain.event import BEFORE_ALL, SnapshotTime
from nsps.domain.outcome import Outcome

NOW = datetime(2026, 11, 21, tzinfo=UTC)
UNTIL = NOW + timedelta(seconds=25)
GONE = NOW - timedelta(seconds=1)
WHOLE = [
    "swap A for B",
    "assign, release",
    "move A from X to Y",
    "refusal: move A to Y",
    "effect: refusal: move A to Y",
]
"""Scenarios whose every state is looked at."""
LEAST_STATES = 1000
"""Looked at of a scenario that is walked through at random, if it has as many."""


# --- the model's documents as the ledger's --------------------------------------------------------


def time(t: int) -> SnapshotTime:
    """An instant of the model as a snapshot time; -1 and 0 are before all."""
    return SnapshotTime(f"2026-11-21T00:00:0{t}.000000Z/e") if t > 0 else BEFORE_ALL


def token(me: int) -> str:
    return f"attempt {me}"


def delivery(doc: Any) -> Delivery:
    known = {None: None, model.OK: Outcome.DELIVERED, model.SUPERSEDED: Outcome.SUPERSEDED}
    return Delivery(time(doc.t), known.get(doc.outcome, Outcome.REJECTED))


def resource(doc: Any) -> Resource:
    lease, until = None, None
    if doc.lease == model.ABANDONED:
        lease, until = "a crashed attempt", GONE
    elif doc.lease != model.FREE:
        lease, until = token(doc.lease), UNTIL
    confirmed = None if doc.confirmed == model.ABSENT else doc.confirmed
    doubts = (doc.dirty, doc.foreign, doc.owed)
    return Resource(doc.owner, time(doc.claim_t), confirmed, *doubts, lease, until)


# --- each step, taken by both ----------------------------------------------------------------


class Compared:
    """One attempt in one state: what the model does next, and what the protocol would do."""

    def __init__(self, world: Any, state: Any, me: int) -> None:
        self.state, self.me = state, me
        self.job, self.attempt = world.jobs[me], state.attempts[me]
        self.effects = world.scenario.effects
        self.steps = {step.label[0]: step for step in world.attempt_steps(state, me)}
        self.t = time(self.job.t)
        self.delivery = delivery(state.deliveries[self.job.delivery])
        self.watermark = self.watermark_in(state)

    def watermark_in(self, state: Any) -> Watermark:
        return Watermark(time(state.watermarks[model.ACCOUNTS.index(self.job.owner)]))

    def resource_in(self, state: Any) -> Resource:
        return resource(state.ledger[self.attempt.todo[0][1]])

    def step(self, todo: tuple[str, int]) -> Step:
        action, k = todo
        if action == "claim":
            return Step(Todo.CLAIM, model.SIMS[k], self.job.desired())
        return Step(Todo.RELEASE, model.SIMS[k])

    def begin(self) -> tuple[object, object]:
        begun = protocol.begin(self.delivery, self.watermark, self.t)
        if not self.steps:  # it waits for a lease; coming too early changes nothing
            return begun, Begun.GO
        ((said, step),) = self.steps.items()
        raised = max(self.watermark.t, self.t) if begun is Begun.GO else self.watermark.t
        expected = {
            "already final": Begun.ALREADY_FINAL,
            "newer copy": Begun.NEWER_COPY,
            "superseded at begin": Begun.SUPERSEDED,
            "begin": Begun.GO,
        }[said]
        return (begun, raised), (expected, self.watermark_in(step.state).t)

    def list(self) -> tuple[object, object]:
        ledger = zip(model.SIMS, self.state.ledger, strict=True)
        owned = [sim for sim, doc in ledger if doc.owner == self.job.owner]
        wanted = {} if self.job.sim is None else {self.job.sim: self.job.desired()}
        todo = self.steps["list"].label[2]
        return protocol.plan(owned, wanted), [self.step(each) for each in todo]

    def take(self) -> tuple[object, object]:
        ((said, step),) = self.steps.items()
        decided = protocol.take(
            self.step(self.attempt.todo[0]),
            self.resource_in(self.state),
            self.watermark,
            self.job.owner,
            self.t,
            Lease(token(self.me), NOW, UNTIL),
            effects=self.effects,
        )
        expected = {
            "watermark has passed": Taken.GAVE_WAY,
            "busy": Taken.BUSY,
            "not mine": Taken.NOT_MINE,
            "claimed later": Taken.CLAIMED_LATER,
            "unchanged": Taken.UNCHANGED,
            "take": Taken.CALL,
        }[said]
        return decided, (expected, self.resource_in(step.state))

    def confirm(self) -> tuple[object, object]:
        todo = self.step(self.attempt.todo[0])
        after = protocol.confirm(self.resource_in(self.state), todo, token(self.me))
        if "confirm" not in self.steps:
            return after, None
        return after, self.resource_in(self.steps["confirm"].state)

    def refused(self) -> tuple[object, object]:
        before = self.resource_in(self.state)
        if "lease lost before confirm" in self.steps:
            return before.held_by(token(self.me)), False
        if "drop instead" in self.steps:
            return before.foreign, True
        found = replace(before, owed=self.attempt.owed)
        after = protocol.not_written(before, found, token(self.me))
        after = protocol.give_back(after, token(self.me))
        return after, self.resource_in(self.steps["give back"].state)

    def effect(self) -> tuple[object, object]:
        """What follows the write is refused: the state is there, its effect stays owed."""
        if "effect refused" not in self.steps:
            return None, None
        after = protocol.give_back(self.resource_in(self.state), token(self.me))
        return after, self.resource_in(self.steps["effect refused"].state)

    def finish(self) -> tuple[object, object]:
        return protocol.may_finish(self.delivery, self.t), "finish" in self.steps


STEPS: dict[str, Callable[[Compared], tuple[object, object]]] = {
    model.BEGIN: Compared.begin,
    model.LIST: Compared.list,
    model.TAKE: Compared.take,
    model.EFFECT: Compared.effect,
    model.CONFIRM: Compared.confirm,
    model.REFUSED: Compared.refused,
    model.FINISH: Compared.finish,
}


def difference(world: Any, state: Any) -> str | None:
    """Where the protocol parts from the model in this state; None if nowhere."""
    for me, attempt in enumerate(state.attempts):
        ask = STEPS.get(attempt.at)
        if ask is None:  # ended, or the call: nothing of the ledger is asked or written
            continue
        protocol_says, model_says = ask(Compared(world, state, me))
        if protocol_says != model_says:
            at = f"attempt {me} at {attempt.at} of {state}"
            return f"the protocol: {protocol_says}\nthe model: {model_says}\n{at}"
    return None


# --- the states -----------------------------------------------------------------------------------


def scenario(name: str) -> Any:
    return next(each for each in model.SCENARIOS if each.name == name)


def models(name: str) -> list[Any]:
    one = scenario(name)
    rules = model.Rules()
    return [model.Model(world, one, rules, reduce=False) for world in model.worlds(one, rules)]


def every_state(world: Any) -> Iterator[Any]:
    """All that can be reached."""
    seen = {world.start()}
    left = list(seen)
    while left:
        state = left.pop()
        yield state
        for _, after, _ in world.steps(state):
            if after not in seen:
                seen.add(after)
                left.append(after)


def walked_states(name: str, least: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Different states on random ways through random worlds of a scenario."""
    dice = random.Random(f"{name}/{seed}")
    worlds = models(name)
    seen: set[tuple[int, Any]] = set()
    for _ in range(least // 4):
        if len(seen) >= least:
            return
        number = dice.randrange(len(worlds))
        world, state = worlds[number], worlds[number].start()
        while steps := world.steps(state):
            state = dice.choice(steps)[1]
            if (number, state) not in seen:
                seen.add((number, state))
                yield world, state


@pytest.mark.parametrize("name", WHOLE)
def test_every_state_of_a_scenario(name: str) -> None:
    looked_at = 0
    for world in models(name)[:3]:
        for state in every_state(world):
            looked_at += 1
            differs = difference(world, state)
            assert differs is None, differs
    assert looked_at > 300


@pytest.mark.parametrize("name", [each.name for each in model.SCENARIOS])
def test_random_ways_through_every_scenario(name: str) -> None:
    looked_at = 0
    for world, state in walked_states(name, LEAST_STATES, seed=1):
        looked_at += 1
        differs = difference(world, state)
        assert differs is None, differs
    assert looked_at > 300


# --- mutants --------------------------------------------------------------------------------------

_begin, _take, _settled = protocol.begin, protocol.take, protocol.settled
_give_back, _plan = protocol.give_back, protocol.plan


def _take_of(change: Callable[[Resource, Watermark, str], tuple[Resource, Watermark]]) -> Any:
    """``take`` that sees other documents than there are."""

    def take(
        step: Step, doc: Resource, mark: Watermark, owner: str, *more: Any, **named: Any
    ) -> tuple[Taken, Resource]:
        return _take(step, *change(doc, mark, owner), owner, *more, **named)

    return take


def _take_then(change: Callable[[Taken, Resource, Resource], Resource]) -> Any:
    """``take`` that writes something else."""

    def take(step: Step, doc: Resource, *more: Any, **named: Any) -> tuple[Taken, Resource]:
        taken, after = _take(step, doc, *more, **named)
        return taken, change(taken, doc, after)

    return take


MUTANTS: dict[str, tuple[str, Any]] = {
    "final": ("begin", lambda doc, mark, t: _begin(replace(doc, outcome=None), mark, t)),
    "copy (begin)": ("begin", lambda doc, mark, t: _begin(replace(doc, t=BEFORE_ALL), mark, t)),
    "copy (finish)": ("may_finish", lambda doc, t: doc.outcome is None),
    "final (finish)": ("may_finish", lambda doc, t: doc.t == t),
    "own": (
        "begin",
        lambda doc, mark, t: _begin(replace(doc, t=BEFORE_ALL) if doc.t == t else doc, mark, t),
    ),
    "shared": ("begin", lambda doc, mark, t: _begin(doc, mark, t, yields=False)),
    "watermark": ("begin", lambda doc, mark, t: _begin(doc, Watermark(), t)),
    "recheck": ("take", _take_of(lambda doc, mark, owner: (doc, Watermark()))),
    "lease": ("take", _take_of(lambda doc, mark, owner: (replace(doc, lease=None), mark))),
    "dirty": ("take", _take_of(lambda doc, mark, owner: (replace(doc, dirty=False), mark))),
    "claim_t": (
        "take",
        _take_of(lambda doc, mark, owner: (replace(doc, claim_t=BEFORE_ALL), mark)),
    ),
    "owner": ("take", _take_of(lambda doc, mark, owner: (replace(doc, owner=owner), mark))),
    "intent": (
        "take",
        _take_then(lambda taken, doc, new: replace(new, owner=doc.owner, claim_t=doc.claim_t)),
    ),
    "foreign": ("take", _take_then(lambda taken, doc, new: replace(new, foreign=doc.foreign))),
    "touch": (
        "take",
        _take_then(lambda taken, doc, new: doc if taken is Taken.UNCHANGED else new),
    ),
    "dirty before the call": (
        "take",
        _take_then(lambda taken, doc, new: replace(new, dirty=doc.dirty)),
    ),
    "owed": ("take", _take_then(lambda taken, doc, new: replace(new, owed=doc.owed))),
    "not owed if nothing was written": ("not_written", lambda doc, found, _: doc),
    "confirmed is not owed": ("settled", lambda doc, sure: replace(_settled(doc, sure), owed=True)),
    "token": (
        "confirm",
        lambda doc, step, _: _settled(doc, step.wanted if step.todo is Todo.CLAIM else None),
    ),
    "claimtime": ("settled", lambda doc, sure: replace(_settled(doc, sure), claim_t=BEFORE_ALL)),
    "confirmed is clean": ("settled", lambda doc, sure: replace(_settled(doc, sure), dirty=True)),
    "in doubt when refused": (
        "give_back",
        lambda doc, holder: replace(_give_back(doc, holder), dirty=False),
    ),
    "releases first": ("plan", lambda owned, wanted: _plan(owned, wanted)[::-1]),
}


@pytest.mark.parametrize("rule", list(MUTANTS))
def test_a_rule_left_out_of_the_protocol_is_noticed(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, mutant = MUTANTS[rule]
    monkeypatch.setattr(protocol, name, mutant)
    scenarios = ["swap A for B", "refusal: move A to Y", "block, unblock", "move and move back"]
    for tried in [*scenarios, "effect: refusal: block, unblock"]:
        for world, state in walked_states(tried, 3 * LEAST_STATES, seed=2):
            if difference(world, state):
                return
    pytest.fail(f"the protocol without {rule} was taken for the model")
