"""Plays the model's worlds on the real ledger: real Firestore client, attempts step by step."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import provisioning_model as model
from nsps.cloud.store import Store
from nsps.delivery.ledger.ledger import Ledger, Progress, Stage, Work
from nsps.delivery.ledger.protocol import CallEnd, Todo
from nsps.domain.event import BEFORE_ALL, Owner, SnapshotTime
from nsps.domain.outcome import Outcome, Transient
from nsps.espf import outbox

from tests.local_cloud.firestore_kit import post

CALL_SECONDS = 15.0
PAST_THE_LEASE = 60.0
MOST_STEPS = 400
"""A schedule that is not over by then never ends."""
I_ACCOUNT = {"X": 1001, "Y": 1002}

_handlers = itertools.count(1)


class Broken(AssertionError):
    """A promise of the model that the ledger did not keep."""


class Clock:
    """The instances' monotonic clock; it stands still unless the server's is moved too."""

    def __init__(self, control_url: str) -> None:
        self._url, self.now = control_url, 0.0

    def __call__(self) -> float:
        return self.now

    def pass_the_leases(self) -> None:
        post(f"{self._url}/clock", {"advance": PAST_THE_LEASE})
        self.now += PAST_THE_LEASE


@dataclass
class System:
    """The external system, and the promises about every step."""

    states: dict[str, str]
    calling: dict[str, int] = field(default_factory=dict)
    landed: dict[tuple[str, str], int] = field(default_factory=dict)
    sure: dict[str, str] = field(default_factory=dict)
    """What the ledger knows without doubt."""
    effects: dict[str, str] = field(default_factory=dict)
    """The state that the last effect followed."""

    def taken(self, key: str, value: str) -> None:
        if self.sure.pop(key, None) == value:
            raise Broken(f"a needless call: {key} is known to be {value}")

    def begin(self, key: str, me: int) -> None:
        if key in self.calling:
            raise Broken(f"attempts {self.calling[key]} and {me} call for {key} at once")
        self.calling[key] = me

    def end(self, key: str) -> None:
        self.calling.pop(key, None)

    def write(self, key: str, value: str, owner: str, t: int) -> None:
        newest = self.landed.get((key, owner), 0)
        if t < newest:
            raise Broken(f"{owner}'s t{t} was written to {key} after {owner}'s t{newest}")
        self.landed[key, owner] = t
        self.states[key] = value


@dataclass
class Actor:
    """One message of a delivery, and the attempt that handles it."""

    job: Any
    at: str = "begin"  # begin, call, calling, answered, refusing, written, ended
    work: Work | None = None
    progress: Progress = field(default_factory=lambda: Progress(Stage.FINISHED))
    waits: bool = False
    written: bool = False
    """What is refused is the effect of a write, not the write."""

    @property
    def key(self) -> str:
        assert self.progress.step is not None
        return self.progress.step.key

    @property
    def removes(self) -> bool:
        assert self.progress.step is not None
        return self.progress.dropping or self.progress.step.todo is Todo.RELEASE

    @property
    def value(self) -> str:
        return model.ABSENT if self.removes else str(self.job.desired())


def snapshot_time(t: int) -> SnapshotTime:
    return SnapshotTime(f"2026-11-21T00:00:{t:02}.000000Z/read")


def work_of(job: Any, handler: str, *, effects: bool = False) -> Work:
    wanted = {} if job.sim is None else {job.sim: job.desired()}
    return Work(
        handler=handler,
        delivery=f"d{job.delivery}",
        event_id=f"d{job.delivery}",
        owner=Owner("account", job.owner),
        i_account=I_ACCOUNT[job.owner],
        t=snapshot_time(job.t),
        wanted=wanted,
        visible={key: {"state": state} for key, state in wanted.items()},
        group=handler,
        call_seconds=CALL_SECONDS,
        effects=effects,
    )


class Played:
    """One world, played on the ledger by one seed."""

    def __init__(
        self, store: Store, clock: Clock, scenario: Any, world: Any, seed: str, handler: str = ""
    ) -> None:
        self.store, self.clock, self.scenario, self.world = store, clock, scenario, world
        self.handler = handler or f"h{next(_handlers)}"
        self.dice = random.Random(seed)
        self.ledger = Ledger(replace(store, clock=clock))
        self.faults, self.refusals = scenario.faults, scenario.refusals
        self.actors = [Actor(job) for job in world.jobs]
        self.refused: dict[int, str] = {}
        initially = {sim: scenario.initial.expected(sim) for sim in model.SIMS}
        self.system = System(initially, effects=dict(initially))
        self.history: list[str] = []
        self.steps = 0
        self.shaken: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        """Around each step against Firestore: where its faults are switched on."""
        self._set_up()

    def _set_up(self) -> None:
        """The ledger agrees with the external system."""
        for key, state in self.system.states.items():
            if state != model.ABSENT:
                doc = {"key": key, "owner": f"account:{state[0]}", "confirmed": state}
                self.store.resource(self.handler, key).set(doc)
                self.system.sure[key] = state

    # ---- one step after the other ----------------------------------------------------------------

    def run(self) -> None:
        """To the end; raises Broken, with the history."""
        try:
            while not all(actor.at == "ended" for actor in self.actors):
                self.step()
            self.judge()
        except AssertionError as error:
            raise Broken("\n".join([*self._in_words(), f"BROKEN: {error}"])) from error

    def _in_words(self) -> Iterator[str]:
        yield f"initially: {self.scenario.initial.in_words()}"
        yield from self.world.history
        for me, actor in enumerate(self.actors):
            yield f"a{me}: delivery d{actor.job.delivery}, {actor.job}"
        yield from self.history

    def step(self) -> None:
        self.steps += 1
        assert self.steps < MOST_STEPS, "deliveries hinder each other for ever"
        able = [me for me, each in enumerate(self.actors) if each.at != "ended" and not each.waits]
        slow = self.faults > 0 and self.dice.random() < 0.05
        if not able or slow:
            self._time_passes(slow and bool(able))
            return
        me = self.dice.choice(able)
        actor = self.actors[me]
        if self.faults and self.dice.random() < 0.12 and actor.at not in ("begin", "calling"):
            self.faults -= 1
            self._crash(me, "crashes")
            return
        try:
            _STEPS[actor.at](self, me, actor)
        except Transient as error:  # Firestore; what it has written is not known
            self.system.sure.clear()
            self._crash(me, f"stops: {error}")

    def _time_passes(self, fault: bool) -> None:
        """All leases run out; not under a call: no call outlives its lease."""
        if any(actor.at == "calling" for actor in self.actors):
            return
        self.faults -= fault
        self.clock.pass_the_leases()
        self.history.append("the leases run out")
        self._wake()

    def _wake(self) -> None:
        for actor in self.actors:
            actor.waits = False

    def _crash(self, me: int, how: str) -> None:
        actor = self.actors[me]
        self.history.append(f"a{me} {how}")
        if actor.at == "calling":
            self.system.end(actor.key)
        actor.at, actor.progress, actor.work = "begin", Progress(Stage.FINISHED), None
        self._wake()

    def _begin(self, me: int, actor: Actor) -> None:
        actor.work = work_of(actor.job, self.handler, effects=self.scenario.effects)
        with self.shaken():
            went = self.ledger.begin(actor.work, {"event_id": actor.work.event_id})
        self._went(me, actor, went, "begins")

    def _call(self, me: int, actor: Actor) -> None:
        assert actor.work is not None
        if not self.ledger.may_call(actor.work, actor.progress):
            self._crash(me, "finds its lease gone")
            return
        self.system.begin(actor.key, me)
        actor.at = "calling"
        self.history.append(f"a{me} calls for {actor.key}")

    def _calling(self, me: int, actor: Actor) -> None:
        how = ["written"] * 6
        how += ["no answer", "no answer, but written", "not now"] if self.faults else []
        how += ["refused"] * 3 if self.refusals else []
        what = self.dice.choice(how)
        self.history.append(f"a{me}: {what} {actor.key} = {actor.value}")
        if self.scenario.effects:
            self._calling_with_effect(me, actor, what)
            return
        self.system.end(actor.key)
        if "written" in what:
            self.system.write(actor.key, actor.value, actor.job.owner, actor.job.t)
        if what == "written":
            actor.at = "written"
        elif what == "refused":
            self.refusals -= 1
            self.refused[actor.job.delivery] = actor.key
            actor.at = "refusing"
        else:
            self._not_done(
                me, actor, call=CallEnd.NOT_DONE if what == "not now" else CallEnd.UNDER_WAY
            )

    def _calling_with_effect(self, me: int, actor: Actor, what: str) -> None:
        """Read, write if it differs, and what follows: ``what`` befalls the write or the effect."""
        assert actor.work is not None
        key, job = actor.key, actor.job
        self.system.end(key)
        differs = self.system.states[key] != actor.value
        at_write = differs and self.dice.random() < 0.5
        if differs and (not at_write or "written" in what):
            self.system.write(key, actor.value, job.owner, job.t)
        due = not at_write and (differs or actor.progress.resource.owed)
        if what == "written" or (not differs and not due):
            if differs or due:
                self.system.effects[key] = self.system.states[key]
            actor.at = "written"
        elif what == "refused":
            self.refusals -= 1
            self.refused[job.delivery] = key
            actor.at = "refusing"
            actor.written = not at_write
        else:
            if due and "written" in what:
                self.system.effects[key] = self.system.states[key]
            not_now = CallEnd.NOT_DONE if at_write else CallEnd.UNCLEAR
            self._not_done(me, actor, call=not_now if what == "not now" else CallEnd.UNDER_WAY)

    def _not_done(self, me: int, actor: Actor, *, call: CallEnd) -> None:
        assert actor.work is not None
        self.faults -= 1
        actor.at = "answered"
        with contextlib.suppress(Transient), self.shaken():
            self.ledger.not_done(actor.work, actor.progress, "try later", call=call)
        self._crash(me, "gives its message back")

    def _written(self, me: int, actor: Actor) -> None:
        assert actor.work is not None
        key, value = actor.key, actor.value
        with self.shaken():
            went = self.ledger.done(actor.work, actor.progress, {}, changed=True)
        if went.at is not Stage.LOST:
            self.system.sure[key] = value
        self._went(me, actor, went, f"confirms {key}")

    def _refusing(self, me: int, actor: Actor) -> None:
        assert actor.work is not None
        with self.shaken():
            wrote = actor.written
            went = self.ledger.refused(
                actor.work, actor.progress, "refused for good", wrote=wrote, written=wrote
            )
        actor.written = False
        if went.dropping:
            actor.progress, actor.at = went, "call"
            self.history.append(f"a{me} will remove what a former owner left in {actor.key}")
            return
        self._went(me, actor, went, "is refused")

    def _went(self, me: int, actor: Actor, went: Progress, what: str) -> None:
        self.history.append(f"a{me} {what}: {went.at.name} {went.outcome.value}")
        actor.progress = went
        if went.at is not Stage.BUSY:
            self._wake()
        if went.at is Stage.CALL:
            actor.at = "call"
            self.system.taken(actor.key, actor.value)
        elif went.at in (Stage.FINISHED, Stage.STOPPED):
            actor.at = "ended"
        elif went.at is Stage.BUSY:
            actor.at, actor.waits = "begin", True
        elif went.at is Stage.LOST:
            actor.at = "begin"
        else:
            raise Broken(f"an attempt came to {went.at}")

    # ---- the end ---------------------------------------------------------------------------------

    def judge(self) -> None:
        """The model's own promises, of what Firestore and the external system hold."""
        world = model.Model(self.world, self.scenario, model.Rules())
        numbers = {snapshot_time(job.t): job.t for job in self.world.jobs}
        docs = []
        for number in range(1 + max(job.delivery for job in self.world.jobs)):
            data = self.store.read(self.store.delivery(self.handler, f"d{number}")) or {}
            outcome = data.get("outcome")
            word = {"superseded": model.SUPERSEDED, None: None}.get(outcome, model.OK)
            if outcome == Outcome.REJECTED:
                word = f"rejected {self.refused[number]}"
            docs.append(model.Delivery(numbers.get(data.get("t", BEFORE_ALL), -1), word))
        states = tuple(self.system.states[sim] for sim in model.SIMS)
        effects = tuple(self.system.effects[sim] for sim in model.SIMS)
        end = world.start()._replace(deliveries=tuple(docs), system=states, effect=effects)
        wrong = world.judge(end)
        assert wrong is None, wrong
        self._judge_statuses(docs)

    def _judge_statuses(self, docs: list[Any]) -> None:
        """What ESPF is to hear is the outcome of the newest delivery that tells it anything."""
        owners = {job.delivery: job.owner for job in self.world.jobs}
        for owner, i_account in I_ACCOUNT.items():
            tell = [
                (doc.t, "OK" if doc.outcome == model.OK else "FAILED")
                for number, doc in enumerate(docs)
                if owners[number] == owner and doc.outcome != model.SUPERSEDED
            ]
            if not tell:
                continue
            data = self.store.read(self.store.status(i_account, self.handler))
            status = outbox.Status.read(data)
            newest = max(tell)[0]
            assert status.t >= snapshot_time(newest), f"{owner}: {status} for {tell}"
            if status.t == snapshot_time(newest):
                assert (newest, status.status) in tell, f"{owner}: {status} for {tell}"


_STEPS: dict[str, Callable[[Played, int, Actor], None]] = {
    "begin": Played._begin,
    "call": Played._call,
    "calling": Played._calling,
    "refusing": Played._refusing,
    "written": Played._written,
}


def scenario(name: str) -> Any:
    return next(each for each in model.SCENARIOS if each.name == name)
