#!/usr/bin/env python3
"""Executable specification of messages where the newest wins: a system that is sent events, and heeds some of them.

Such a system cannot be asked what it holds, and only it knows which types of events it heeds: an existing NSPS
connector behind `webhook`. Several deliveries of one owner are brought in any order, each with the time of its
snapshot. What must hold whatever the system heeds: of every meaning (an event's type with its variables) it is sent
data at least as new as its newest event's, and never older data after newer.

The steps of provisioning_model.py stay, with the message to an owner as the one resource. Adjacent steps without a
call between them are one transaction, as in the implementation.

    python message_model.py                    all scenarios, a table
    python message_model.py --without same     leave out one rule: prints a shortest counterexample
    python message_model.py --variants         every rule in turn
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

from model_command import NONE_FOUND, table, variants
from provisioning_model import OK, SUPERSEDED, Explored, Label, Step, explore


@dataclass(frozen=True)
class Rules:
    same: bool = True       # a delivery is superseded only by a newer one that means the same
    newest: bool = True     # data older than what was sent is not sent: the event is read again
    before: bool = True     # ... it is sent to be read again before its message is acknowledged
    claim: bool = True      # the time of what is sent is written BEFORE the call
    lease: bool = True      # one message to an owner at a time
    copy: bool = True       # an older copy of the same delivery never decides that delivery's outcome
    bounded: bool = True    # while another's call failed, a delivery is read again only so often; then it waits
    over: bool = True       # a call that was refused is over: nobody waits for its delivery


RULES_IN_WORDS = {
    "same": "superseded only by a newer one that means the same (without: by any newer one of the owner)",
    "newest": "older data than was sent is not sent: the event is read again",
    "before": "sent to be read again before the message is acknowledged",
    "claim": "the time of what is sent is recorded before the call (without: when it is confirmed)",
    "lease": "one message to an owner at a time",
    "copy": "an older copy of a delivery never decides that delivery's outcome",
    "bounded": "read again only so often while another's call failed; then it waits",
    "over": "nobody waits for a delivery that was refused",
}

AGAIN = 1                       # how often a delivery is read again while another's call failed
TRIES = 2                       # attempts of a message whose call fails, in the scenarios where the system stays down
REJECTED, PARKED = "rejected", "parked"


@dataclass(frozen=True)
class Scenario:
    """`events`: one letter each, its meaning. `down`: the system never takes anything."""

    name: str
    events: str
    faults: int = 1             # crashes, calls without an answer, "not now", leases that run out: together
    refusals: int = 0
    duplicate: bool = False     # the first event comes twice
    down: bool = False


class Delivery(NamedTuple):
    first: int = 0              # for the check: the time of its first snapshot
    t: int = 0                  # newest snapshot with which an attempt of this delivery has begun
    outcome: Optional[str] = None
    again: int = 0              # how often it was sent to be read again


class Message(NamedTuple):
    """One message of a delivery, and the attempt that handles it."""

    delivery: int
    at: str                     # reads (in enrichment), begins, is busy, waits, calls, refused, confirms, sends again, sent again
    t: int = 0
    holds: bool = False         # the lease of the owner's message is this attempt's
    tries: int = 0


class Full(NamedTuple):
    messages: tuple[Message, ...]
    deliveries: tuple[Delivery, ...]
    marks: tuple[int, ...]      # per meaning: newest snapshot time begun
    claim_t: int                # newest snapshot time with which the owner's message was taken
    dirty: bool                 # a call for the owner has begun, and is not known to be over
    leased: bool
    got: tuple[int, ...]        # the system: per meaning, the newest snapshot that it was sent
    landed: int                 # for the check: the newest snapshot that it was sent at all
    faults: int
    refusals: int


class Model:
    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        self.kinds = sorted(set(scenario.events))
        self.meaning = [self.kinds.index(letter) for letter in scenario.events]

    def start(self) -> Full:
        count, nothing = len(self.meaning), (0,) * len(self.kinds)
        brought = [*range(count), *([0] if self.scenario.duplicate else [])]
        messages = tuple(Message(number, "reads") for number in sorted(brought))
        return Full(messages, (Delivery(),) * count, nothing, 0, False, False, nothing, 0,
                    self.scenario.faults, self.scenario.refusals)

    def steps(self, state: Full) -> list[Step]:
        result = [step for message in dict.fromkeys(state.messages) for step in self.message_steps(state, message)]
        if not result:      # whoever waits is parked in the end, and read again for the next of the long retries
            waiting = [message for message in state.messages if message.at == "waits"]
            needless = None if self.scenario.down else "it waits for hours, and for nothing: the other one is decided"
            result = [Step(("is parked, and sent again", message.delivery, message.t),
                           self.put(state, message, Message(message.delivery, "reads")), needless)
                      for message in waiting]
        return [Step(label, canonical(after), violation) for label, after, violation in result]

    def message_steps(self, state: Full, message: Message) -> Iterator[Step]:
        if message.at == "reads":
            # ENRICHMENT: a read begins now, for this event or for two at once.
            now = 1 + newest(state)
            alone = self.read(state, message, now)
            yield Step(("is read", message.delivery, now), alone)
            for other in state.messages:
                if other.at == "reads" and other.delivery > message.delivery:
                    yield Step(("is read together with another", message.delivery, now), self.read(alone, other, now))
        elif message.at == "begins":
            yield self.begin(state, message)
        elif message.at == "is busy":
            if not state.leased:
                yield Step(("comes again", message.delivery, message.t),
                           self.put(state, message, message._replace(at="begins")))
        elif message.at == "waits":
            if not state.dirty or state.claim_t <= message.t:
                yield Step(("comes again", message.delivery, message.t),
                           self.put(state, message, message._replace(at="begins")))
        elif message.at == "calls":
            yield from self.call(state, message)
        elif message.at in ("confirms", "refused"):
            yield self.confirm(state, message)
        elif message.at == "sends again":
            # PUBLISH to the topic of raw events, then acknowledge.
            published = self.put(state, message, Message(message.delivery, "reads"))
            yield Step(("is sent to be read again", message.delivery, message.t), published)
            if state.faults:
                # a crash between: with the rule the message comes again beside its newer copy
                cut_off = self.put(state, message, message._replace(at="begins"))
                both = cut_off._replace(messages=(*cut_off.messages, Message(message.delivery, "reads")))
                after = both if self.rules.before else self.put(state, message, None)
                yield Step(("crashes while it is sent again", message.delivery, message.t),
                           after._replace(faults=state.faults - 1))
        if state.faults and message.at in ("calls", "confirms", "refused"):
            crashed = self.put(state, message, message._replace(at="begins", holds=False))
            yield Step(("crashes", message.delivery, message.t), self.free(crashed, message))
            if message.holds and message.at != "calls":
                late = self.put(state, message, message._replace(holds=False))
                yield Step(("is slow, its lease runs out", message.delivery, message.t), self.free(late, message))

    def begin(self, state: Full, message: Message) -> Step:
        """TRANSACTION begin and take: documents delivery, owner (its marks) and resource."""
        rules, who, t = self.rules, message.delivery, message.t
        delivery, kind = state.deliveries[who], self.meaning[who]
        gone = self.put(state, message, None)
        if delivery.outcome is not None:
            return Step(("stops: it has its outcome", who, t), gone)
        if rules.copy and delivery.t > t:
            return Step(("stops: a newer copy has begun", who, t), gone)
        mark = state.marks[kind] if rules.same else max(state.marks)
        if mark > t or (mark == t and delivery.t != t):     # newer, or the same data in another one's hands
            return Step(("is superseded", who, t), self.decide(gone, who, delivery._replace(outcome=SUPERSEDED)))
        begun = self.decide(state, who, delivery._replace(t=t))
        begun = begun._replace(marks=swapped(state.marks, kind, t))
        if rules.lease and state.leased:
            return Step(("finds the lease taken", who, t), self.put(begun, message, message._replace(at="is busy")))
        if rules.newest and state.claim_t > t:
            if rules.bounded and state.dirty and delivery.again >= AGAIN:
                return Step(("waits for the one that failed", who, t),
                            self.put(begun, message, message._replace(at="waits")))
            begun = self.decide(begun, who, delivery._replace(t=t, again=min(delivery.again + 1, AGAIN)))
            return Step(("is stale", who, t), self.put(begun, message, message._replace(at="sends again")))
        taken = self.put(begun, message, message._replace(at="calls", holds=True))
        claim_t = t if rules.claim else state.claim_t
        return Step(("takes the lease", who, t), taken._replace(leased=rules.lease, dirty=True, claim_t=claim_t))

    def call(self, state: Full, message: Message) -> Iterator[Step]:
        """THE SYSTEM: it takes the event; or no answer (with or without effect), "not now", or never."""
        who, t = message.delivery, message.t
        kind = self.meaning[who]
        again = self.put(state, message, message._replace(at="begins", holds=False))
        if self.scenario.down:
            spent = message.tries + 1
            tried = message._replace(at="begins", holds=False, tries=spent)
            after = self.put(state, message, tried)
            if spent == TRIES:
                doc = state.deliveries[who]
                after = self.decide(self.put(state, message, None), who, doc._replace(outcome=doc.outcome or PARKED))
            yield Step(("is told 'not now'", who, t), after._replace(leased=False))
            return
        late = f"data of t{t} was sent after data of t{state.landed}" if t < state.landed else None
        done = state._replace(got=swapped(state.got, kind, max(t, state.got[kind])), landed=max(t, state.landed))
        yield Step(("is sent", who, t), self.put(done, message, message._replace(at="confirms")), late)
        if state.faults:
            yield Step(("is told 'not now'", who, t), self.free(again, message))
            lost = self.put(done, message, message._replace(at="begins", holds=False))
            yield Step(("is sent, and gets no answer", who, t), self.free(lost, message), late)
        if state.refusals:
            refused = self.put(state, message, message._replace(at="refused"))
            yield Step(("is refused", who, t), refused._replace(refusals=state.refusals - 1))

    def confirm(self, state: Full, message: Message) -> Step:
        """TRANSACTION confirm and finish: documents resource and delivery."""
        who, t = message.delivery, message.t
        if not message.holds:
            return Step(("finds its lease gone", who, t), self.put(state, message, message._replace(at="begins")))
        refused, doc = message.at == "refused", state.deliveries[who]
        after = self.put(state, message, None)
        after = after._replace(leased=False, dirty=refused and not self.rules.over, claim_t=max(state.claim_t, t))
        if doc.outcome is None and (doc.t == t or not self.rules.copy):
            after = self.decide(after, who, doc._replace(outcome=REJECTED if refused else OK))
        return Step(("finishes", who, t), after)

    # ---- small helpers -------------------------------------------------------------------------------------------

    def read(self, state: Full, message: Message, now: int) -> Full:
        delivery = state.deliveries[message.delivery]
        after = self.decide(state, message.delivery, delivery._replace(first=delivery.first or now))
        return self.put(after, message, Message(message.delivery, "begins", now))

    @staticmethod
    def free(state: Full, message: Message) -> Full:
        """A fault; the lease of an attempt that is gone runs out at any time (to wait for it changes nothing)."""
        return state._replace(leased=state.leased and not message.holds, faults=state.faults - 1)

    @staticmethod
    def put(state: Full, before: Message, after: Optional[Message]) -> Full:
        messages = list(state.messages)
        messages.remove(before)
        return state._replace(messages=(*messages, *([after] if after else [])))

    @staticmethod
    def decide(state: Full, number: int, delivery: Delivery) -> Full:
        deliveries = state.deliveries
        return state._replace(deliveries=deliveries[:number] + (delivery,) + deliveries[number + 1:])

    # ---- what is promised ----------------------------------------------------------------------------------------

    def finished(self, state: Full) -> bool:
        return not state.messages

    def judge(self, state: Full) -> Optional[str]:
        """At the end: an outcome for every delivery, and of each meaning what its newest event saw, or newer."""
        failed = (REJECTED, PARKED)
        for number, delivery in enumerate(state.deliveries):
            if delivery.outcome is None:
                return f"delivery d{number + 1} ended without an outcome"
            kind = self.meaning[number]
            excused = any(other.outcome in failed and other.t >= delivery.first
                          for index, other in enumerate(state.deliveries) if self.meaning[index] == kind)
            if state.got[kind] < delivery.first and not excused:
                return (f"d{number + 1} is {delivery.outcome}, and the system was never sent "
                        f"{self.kinds[kind]} with data of t{delivery.first} or newer")
        return None

    def history(self, found: Explored) -> Iterator[str]:
        for number, letter in enumerate(self.scenario.events):
            yield f"d{number + 1}: an event that means {letter}"
        for what, who, t in found.trace:
            yield f"  d{who + 1}{f'(t{t})' if t else ''} {what}"
        yield f"BROKEN: {found.violation}"


def swapped(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return values[:at] + (max(value, values[at]),) + values[at + 1:]


def times(state: Full) -> Iterator[int]:
    yield from (message.t for message in state.messages)
    for delivery in state.deliveries:
        yield from (delivery.first, delivery.t)
    yield from (*state.marks, state.claim_t, *state.got, state.landed)


def newest(state: Full) -> int:
    return max(times(state))


def canonical(state: Full) -> Full:
    """The same state with its times made dense (only their order matters) and its messages sorted."""
    rank = {t: number for number, t in enumerate(sorted({0, *times(state)}))}
    return Full(
        tuple(sorted(message._replace(t=rank[message.t]) for message in state.messages)),
        tuple(doc._replace(first=rank[doc.first], t=rank[doc.t]) for doc in state.deliveries),
        tuple(rank[t] for t in state.marks), rank[state.claim_t], state.dirty, state.leased,
        tuple(rank[t] for t in state.got), rank[state.landed], state.faults, state.refusals)


SCENARIOS = (
    Scenario("one meaning", "AA", faults=2),
    Scenario("two meanings", "AB", faults=2),
    Scenario("two meanings, one comes twice", "AB", duplicate=True),
    Scenario("another between two that mean the same", "AAB"),
    Scenario("three meanings", "ABC"),
    Scenario("refused: two meanings", "AB", refusals=1),
    Scenario("refused: another between two that mean the same", "AAB", faults=0, refusals=1),
    Scenario("the system stays down: two meanings", "AB", faults=0, down=True),
    Scenario("the system stays down: three meanings", "ABC", faults=0, down=True),
)


def run(scenario: Scenario, rules: Rules) -> tuple[Model, Explored]:
    model = Model(scenario, rules)
    start = canonical(model.start())
    return model, explore(start, model.steps, model.finished, model.judge)


def counterexample(rules: Rules) -> list[str]:
    broken = []
    for scenario in SCENARIOS:
        model, found = run(replace(scenario, faults=min(1, scenario.faults)), rules)
        if found.violation:
            broken.append((len(found.trace), [scenario.name, *model.history(found)]))
    return min(broken)[1] if broken else NONE_FOUND


def main() -> int:
    code = variants(__doc__, Rules, RULES_IN_WORDS, counterexample)
    return table(((one.name, *run(one, Rules())) for one in SCENARIOS), 50) if code is None else code


if __name__ == "__main__":
    sys.exit(main())
