#!/usr/bin/env python3
"""Executable specification of the asynchronous kind: a system that takes an order now and answers later.

The steps of provisioning_model.py stay; what is new is what lies between a call and its confirmation. An order manager
takes an order, carries it out at any time and in any order among several, and answers once it has. One order at a time
is open for a resource: who wants the same JOINS it, who wants something else is QUEUED and sent again (enriched again)
after the answer. Adjacent steps without a call between them are one transaction, as in the implementation.

    python order_model.py                    all scenarios, a table
    python order_model.py --without early    leave out one rule: prints a shortest counterexample
    python order_model.py --variants         every rule in turn
"""
from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

import provisioning_model as base
from model_command import NONE_FOUND, variants
from provisioning_model import ABSENT, ACCOUNTS, OK, SIMS, SUPERSEDED, Explored, Label, Step, explore, state_of, worst


@dataclass(frozen=True)
class Rules:
    single: bool = True     # one open order for a resource
    doubt: bool = True      # an order is written into the resource BEFORE it is submitted: in doubt, it counts as open
    early: bool = True      # the acceptance looks whether the answer has come before it
    race: bool = True       # an answer is kept as unknown in the transaction that looks for its order
    whole: bool = True      # finish looks whether all its orders are answered already
    own: bool = True        # an answer finishes only a delivery that waits for it (not refused, not begun anew)
    join: bool = True       # the answer finishes the deliveries that joined, too
    follow: bool = True     # the answer sends the queued deliveries again
    complete: bool = True   # an answer taken in, but not told to the end, is completed by a tick


RULES_IN_WORDS = {
    "single": "one open order for a resource",
    "doubt": "an order counts as open from before its submission",
    "early": "the acceptance looks for an early answer",
    "race": "looking for the order and keeping an unknown answer is one transaction",
    "whole": "finish looks for answers that have come already",
    "own": "an answer finishes only a delivery that waits for it",
    "join": "joined deliveries are finished by the answer",
    "follow": "queued deliveries are sent again after the answer",
    "complete": "a tick completes what a crash cut off",
}

BEGIN, CALL, SUBMIT, REFUSED, ACCEPT, ENDED = "begin", "intend", "submit", "refused", "accept", "ended"
WAITING = "accepted"            # the outcome of a delivery that waits for answers
FREE = -1
Ref = tuple                     # (SIM, snapshot time, wanted state): equal when the same order is submitted again


class Delivery(NamedTuple):
    t: int
    outcome: Optional[str]
    orders: tuple[Ref, ...]     # whose answers it waits for


class Resource(NamedTuple):
    owner: Optional[str]
    claim_t: int
    confirmed: str
    dirty: bool
    lease: int
    pending: Optional[Ref]      # the open order
    taken: bool                 # ... of which the system is known to have it (else: in doubt)


class Order(NamedTuple):
    """The order's document; and, below the line, what the system and the callback know of it."""

    ref: Ref
    deliveries: tuple[int, ...] = ()
    followers: tuple[int, ...] = ()     # slots whose deliveries are sent again
    answer: str = ""                    # "", done, failed
    settled: bool = False
    named: bool = False                 # the system's id for it is noted: its answer can be found
    unknown: str = ""                   # the answer, kept under an id that nobody knew
    # ---
    system: str = ""                    # "" (never taken), open, done, failed
    flying: bool = False                # its answer is on the way
    callback: str = ""                   # the callback: "", unknown (found nothing), complete, send


class Slot(NamedTuple):
    """One message of a delivery; a delivery that is sent again comes back into its slot with another snapshot."""

    at: str
    t: int
    sim: Optional[str]
    blocked: bool
    todo: tuple[tuple[str, int], ...] = ()
    outcome: str = OK
    orders: tuple[Ref, ...] = ()
    again: bool = False
    wait: int = -1              # found this SIM busy: tried again once it may be free


class Full(NamedTuple):
    slots: tuple[Slot, ...]
    watermarks: tuple[int, int]
    deliveries: tuple[Delivery, ...]
    ledger: tuple[Resource, Resource]
    orders: tuple[Order, ...]
    system: tuple[str, str]
    faults: int
    refusals: int
    now: int


def settled(doc: Resource, state: str) -> Resource:
    owner = doc.owner if state != ABSENT else None
    return doc._replace(owner=owner, confirmed=state, dirty=False, lease=FREE, pending=None, taken=False)


class Model:
    def __init__(self, world: base.World, scenario: base.Scenario, rules: Rules) -> None:
        self.world, self.scenario, self.rules, self.jobs = world, scenario, rules, world.jobs

    def start(self) -> Full:
        states = [self.scenario.initial.expected(sim) for sim in SIMS]
        ledger = [Resource(None if s == ABSENT else s[0], 0, s, False, FREE, None, False) for s in states]
        return Full(
            tuple(Slot(BEGIN, job.t, job.sim, job.blocked) for job in self.jobs), (0, 0),
            (Delivery(-1, None, ()),) * (1 + max(job.delivery for job in self.jobs)), (ledger[0], ledger[1]), (),
            (states[0], states[1]), self.scenario.faults, self.scenario.refusals, 1 + max(job.t for job in self.jobs))

    # ---- what may happen next ----------------------------------------------------------------------------------------

    def steps(self, state: Full) -> list[Step]:
        result: list[Step] = []
        for me, slot in enumerate(state.slots):
            if slot.at == ENDED:
                if slot.again:
                    result.append(self.enriched_again(state, me))
                continue
            result += self.attempt_steps(state, me)
            if state.faults and slot.at in (CALL, SUBMIT, ACCEPT, REFUSED):
                result.append(Step(("crash", me), self.gone(state, me)))
            # not before the call has ended: no call outlives its lease
            if state.faults and slot.at in (ACCEPT, REFUSED) and state.ledger[slot.todo[0][1]].lease == me:
                k = slot.todo[0][1]
                after = self.put_resource(state, k, state.ledger[k]._replace(lease=FREE))
                result.append(Step(("lease runs out", me, k), after._replace(faults=state.faults - 1)))
        for order in state.orders:
            result += self.system_steps(state, order)
            result += self.callback_steps(state, order)
        for k in (0, 1):
            doc = state.ledger[k]
            if doc.pending and not doc.taken and doc.lease == FREE and self.order(state, doc.pending).system != "open":
                # The doubt passes: an order that has not been heard of for so long will not be carried out any more.
                after = self.put_resource(state, k, doc._replace(pending=None))
                result.append(Step(("doubt passes", -1, doc.pending), after))
        return result

    def enriched_again(self, state: Full, me: int) -> Step:
        account = getattr(self.world.final, self.jobs[me].owner)
        fresh = Slot(BEGIN, state.now, account.sim, account.blocked)
        return Step(("enriched again", me, state.now), self.put(state, me, fresh)._replace(now=state.now + 1))

    def gone(self, state: Full, me: int) -> Full:
        """The attempt is over without an end: its lease is left to run out, its message comes again."""
        slot = state.slots[me]
        k = slot.todo[0][1]
        after = self.put(state, me, slot._replace(at=BEGIN, todo=(), outcome=OK, orders=(), wait=k))
        if state.ledger[k].lease == me:
            after = self.put_resource(after, k, state.ledger[k]._replace(lease=FREE))
        return after._replace(faults=state.faults - 1)

    # ---- the attempt ------------------------------------------------------------------------------------------------

    def attempt_steps(self, state: Full, me: int) -> list[Step]:
        slot, job = state.slots[me], self.jobs[me]
        who = ACCOUNTS.index(job.owner)
        delivery = state.deliveries[job.delivery]
        if slot.at == BEGIN:
            # TRANSACTION begin, list, take ...
            if slot.wait >= 0:
                doc = state.ledger[slot.wait]
                if doc.lease != FREE or (doc.pending and not doc.taken and doc.pending[1] != slot.t):
                    return []
                slot = slot._replace(wait=-1)
            if delivery.outcome not in (None, WAITING):
                return [Step(("already final", me), self.end(state, me))]
            if delivery.t > slot.t:
                return [Step(("newer copy", me), self.end(state, me))]
            shared = state.watermarks[who] == slot.t and delivery.t != slot.t    # another one began with it
            if state.watermarks[who] > slot.t or shared:
                doc = delivery._replace(outcome=SUPERSEDED)
                return [Step(("superseded at begin", me), self.end(self.put_delivery(state, job.delivery, doc), me))]
            todo = [("release", k) for k in (0, 1) if state.ledger[k].owner == job.owner and SIMS[k] != slot.sim]
            if slot.sim is not None:
                todo.append(("claim", SIMS.index(slot.sim)))
            after = self.put_delivery(state, job.delivery, Delivery(slot.t, None, delivery.orders))
            marks = list(state.watermarks)
            marks[who] = max(marks[who], slot.t)
            after = self.put(after._replace(watermarks=tuple(marks)), me, slot._replace(todo=tuple(todo)))
            return self.go_on(state, after, me, "begin")
        action, k = slot.todo[0]
        doc = state.ledger[k]
        ref = self.ref(me, slot)
        if slot.at == CALL:
            # TRANSACTION intend: documents order and resource.
            if doc.lease != me:
                return [Step(("lease lost", me, k), self.put(state, me, slot._replace(at=BEGIN, todo=(), outcome=OK, orders=(), wait=k)))]
            order = self.order(state, ref)
            noted = order._replace(deliveries=with_(order.deliveries, job.delivery), settled=False)
            after = self.put_order(state, noted)
            if self.rules.doubt:
                after = self.put_resource(after, k, doc._replace(pending=ref, taken=False))
            return [Step(("intend", me, ref), self.put(after, me, slot._replace(at=SUBMIT)))]
        if slot.at == SUBMIT:
            return self.submit_steps(state, me, ref)
        # TRANSACTION accept (or give back): documents resource, order; and go on.
        if doc.lease != me:
            return [Step(("lease lost", me, k), self.put(state, me, slot._replace(at=BEGIN, todo=(), outcome=OK, orders=(), wait=k)))]
        order = self.order(state, ref)
        rest = slot.todo[1:]
        if slot.at == REFUSED:
            free = doc._replace(lease=FREE, pending=None, taken=False) if self.rules.doubt else doc._replace(lease=FREE)
            after = self.put_resource(state, k, free)
            after = self.put(after, me, slot._replace(todo=rest, outcome=worse(slot.outcome, f"rejected {SIMS[k]}")))
            return self.go_on(state, after, me, "give back")
        answer = order.answer or order.unknown
        if answer and self.rules.early:
            sure = settled(doc, ref[2]) if answer == "done" else doc._replace(lease=FREE, pending=None, taken=False)
            order = order._replace(named=True, answer=answer, settled=True)
            outcome = OK if answer == "done" else f"rejected {SIMS[k]}"
        else:
            sure = doc._replace(lease=FREE, pending=ref, taken=True)
            order = order._replace(named=True)
            outcome = WAITING
        after = self.put_order(self.put_resource(state, k, sure), order)
        went = slot._replace(todo=rest, outcome=worse(slot.outcome, outcome), orders=with_(slot.orders, ref))
        return self.go_on(state, self.put(after, me, went), me, "accepted")

    def submit_steps(self, state: Full, me: int, ref: Ref) -> list[Step]:
        """THE CALL. Repeatable: a reference that the system has already is not taken twice."""
        slot = state.slots[me]
        order = self.order(state, ref)
        taken = state
        clash = None
        if not order.system:
            others = [other for other in state.orders if other.system == "open" and other.ref[0] == ref[0]]
            clash = f"two orders are open for SIM {SIMS[ref[0]]}" if others else None
            taken = self.put_order(state, order._replace(system="open"))
        result = [Step(("taken", me, ref), self.put(taken, me, slot._replace(at=ACCEPT)), clash)]
        if state.faults:
            result.append(Step(("no answer, not taken", me, ref), self.gone(state, me)))
            result.append(Step(("no answer, but taken", me, ref), self.gone(taken, me), clash))
        if state.refusals and not order.system:
            after = state._replace(refusals=state.refusals - 1)
            result.append(Step(("refused", me, ref), self.put(after, me, slot._replace(at=REFUSED))))
        return result

    def go_on(self, before: Full, state: Full, me: int, what: str) -> list[Step]:
        """... take what is left to do, until an order is needed, or finish. The rest of the same transaction."""
        rules, job = self.rules, self.jobs[me]
        slot = state.slots[me]
        watermark = state.watermarks[ACCOUNTS.index(job.owner)]
        while slot.todo:
            action, k = slot.todo[0]
            doc = state.ledger[k]
            wanted = self.wanted(me, slot)
            if watermark > slot.t:
                slot = slot._replace(todo=(), outcome=worse(slot.outcome, SUPERSEDED))
                break
            if doc.lease not in (FREE, me):
                if what == "begin":         # it comes again when the lease is free; too early changes nothing
                    return []
                return [Step((what + ", then busy", me, k), self.put(state, me, slot._replace(at=BEGIN, todo=(), outcome=OK, orders=(), wait=k)))]
            rest = slot._replace(todo=slot.todo[1:])
            if action == "release" and doc.owner != job.owner:
                slot = rest
                continue
            if action == "claim":
                if doc.claim_t > slot.t:
                    slot = rest._replace(outcome=worse(slot.outcome, SUPERSEDED))
                    continue
                if doc.owner == job.owner and doc.confirmed == wanted and not doc.dirty:
                    state = self.put_resource(state, k, doc._replace(claim_t=slot.t))
                    slot = rest
                    continue
            ref = self.ref(me, slot)
            resubmits = doc.pending == ref and not doc.taken     # an order in doubt is submitted again
            if doc.pending and rules.single and not resubmits:
                if not doc.taken:           # in doubt: wait until it is answered, or given up
                    if what == "begin":
                        return []
                    return [Step((what + ", then busy", me, k), self.put(state, me, slot._replace(at=BEGIN, todo=(), outcome=OK, orders=(), wait=k)))]
                order = self.order(state, doc.pending)
                if doc.owner == job.owner and doc.pending[2] == wanted:
                    if action == "claim":
                        state = self.put_resource(state, k, doc._replace(claim_t=slot.t))
                    if rules.join:
                        state = self.put_order(state, order._replace(deliveries=with_(order.deliveries, job.delivery)))
                    slot = rest._replace(outcome=worse(slot.outcome, WAITING), orders=with_(slot.orders, order.ref))
                    continue
                if rules.follow:
                    state = self.put_order(state, order._replace(followers=with_(order.followers, me)))
                return [Step((what + ", then queued", me, k), self.end(state, me))]
            taken = doc._replace(dirty=True, lease=me)
            if action == "claim":
                taken = taken._replace(owner=job.owner, claim_t=slot.t)
            state = self.put_resource(state, k, taken)
            return [Step((what + ", then take", me, k, action), self.put(state, me, slot._replace(at=CALL)))]
        # finish
        delivery = state.deliveries[job.delivery]
        after = self.end(state, me)
        if delivery.outcome not in (None, WAITING) or delivery.t != slot.t:
            return [Step((what + ", not responsible", me), after)]
        outcome = slot.outcome
        if outcome == WAITING and rules.whole:
            outcome = self.answered(state, slot.orders) or WAITING
        after = self.put_delivery(after, job.delivery, Delivery(delivery.t, outcome, slot.orders))
        return [Step((what + ", then finish", me, outcome), after)]

    # ---- the system, and its answers ----------------------------------------------------------------------------------

    def system_steps(self, state: Full, order: Order) -> list[Step]:
        if order.system != "open":
            return []
        k, _, value = order.ref
        system = (value, state.system[1]) if k == 0 else (state.system[0], value)
        done = self.put_order(state, order._replace(system="done", flying=True))._replace(system=system)
        result = [Step(("carried out", -1, order.ref), done)]
        if state.refusals:
            failed = self.put_order(state, order._replace(system="failed", flying=True))
            result.append(Step(("fails", -1, order.ref), failed._replace(refusals=state.refusals - 1)))
        return result

    def callback_steps(self, state: Full, order: Order) -> list[Step]:
        """The answer comes, under our reference or under the system's id. Each branch is one transaction."""
        rules = self.rules
        result: list[Step] = []
        if order.flying and not order.callback:
            # under our reference: always found; under the system's id: once the acceptance has noted it
            result += self.take_in(state, order)
            if order.named:
                pass
            elif rules.race:
                result.append(Step(("kept as unknown", -1, order.ref),
                                   self.put_order(state, order._replace(flying=False, unknown=order.system))))
            else:
                result.append(Step(("finds no order", -1, order.ref),
                                   self.put_order(state, order._replace(callback="unknown"))))
        if order.callback == "unknown":
            result.append(Step(("kept as unknown", -1, order.ref),
                               self.put_order(state, order._replace(flying=False, callback="", unknown=order.system))))
        if order.callback == "complete":
            after = state
            for number in order.deliveries:
                after = self.finish_waiting(after, number)
            result.append(Step(("completes", -1, order.ref), self.put_order(after, order._replace(callback="send"))))
        if order.callback == "send":
            after = self.put_order(state, order._replace(callback="", followers=(), settled=True))
            for me in order.followers:
                after = self.put(after, me, after.slots[me]._replace(again=True))
            result.append(Step(("sends again", -1, order.ref), after))
        if order.callback in ("complete", "send") and state.faults:
            cut = self.put_order(state, order._replace(callback=""))._replace(faults=state.faults - 1)
            result.append(Step(("callback crashes", -1, order.ref), cut))
        if rules.complete and order.answer and not order.settled and not order.callback:
            result.append(Step(("tick", -1, order.ref), self.put_order(state, order._replace(callback="complete"))))
        if order.settled and not order.flying and not order.callback and order.answer and state.faults:
            again = self.put_order(state, order._replace(callback="complete"))._replace(faults=state.faults - 1)
            result.append(Step(("answers once more", -1, order.ref), again))
        return result

    def take_in(self, state: Full, order: Order) -> list[Step]:
        """TRANSACTION record: documents order and resource."""
        k, _, value = order.ref
        doc = state.ledger[k]
        taken_in = order._replace(flying=False, answer=order.system, settled=False, callback="complete")
        after = self.put_order(state, taken_in)
        left = Step(("takes the answer in, for the acceptance", -1, order.ref, order.system), after)
        if doc.pending != order.ref or (not doc.taken and doc.lease != FREE):
            return [left]
        sure = settled(doc, value) if order.system == "done" else doc._replace(pending=None, taken=False)
        settles = Step(("takes the answer in", -1, order.ref, order.system), self.put_resource(after, k, sure))
        # In doubt, the lease of a submitter who is gone may not have run out yet.
        return [settles] if doc.taken else [settles, left]

    def finish_waiting(self, state: Full, number: int) -> Full:
        """TRANSACTION: one delivery that waits, if all its orders are answered."""
        doc = state.deliveries[number]
        if doc.outcome != WAITING and (self.rules.own or doc.outcome == SUPERSEDED):
            return state
        outcome = self.answered(state, doc.orders)
        return self.put_delivery(state, number, doc._replace(outcome=outcome)) if outcome else state

    def answered(self, state: Full, refs: tuple[Ref, ...]) -> Optional[str]:
        """What the orders came to together; None while one is not answered."""
        if not refs:
            return None
        outcome = OK
        for ref in refs:
            answer = self.order(state, ref).answer
            if not answer:
                return None
            outcome = worst(outcome, OK if answer == "done" else f"rejected {SIMS[ref[0]]}")
        return outcome

    # ---- small things ------------------------------------------------------------------------------------------------

    def wanted(self, me: int, slot: Slot) -> str:
        return state_of(self.jobs[me].owner, slot.blocked) if slot.todo[0][0] == "claim" else ABSENT

    def ref(self, me: int, slot: Slot) -> Ref:
        return (slot.todo[0][1], slot.t, self.wanted(me, slot))

    @staticmethod
    def order(state: Full, ref: Ref) -> Order:
        return next((order for order in state.orders if order.ref == ref), Order(ref))

    @staticmethod
    def put_order(state: Full, new: Order) -> Full:
        others = [order for order in state.orders if order.ref != new.ref]
        return state._replace(orders=tuple(sorted([*others, new])))

    @staticmethod
    def put(state: Full, me: int, slot: Slot) -> Full:
        return state._replace(slots=state.slots[:me] + (slot,) + state.slots[me + 1:])

    def end(self, state: Full, me: int) -> Full:
        return self.put(state, me, Slot(ENDED, 0, None, False, again=state.slots[me].again))

    @staticmethod
    def put_resource(state: Full, k: int, doc: Resource) -> Full:
        return state._replace(ledger=(doc, state.ledger[1]) if k == 0 else (state.ledger[0], doc))

    @staticmethod
    def put_delivery(state: Full, number: int, doc: Delivery) -> Full:
        old = state.deliveries
        return state._replace(deliveries=old[:number] + (doc,) + old[number + 1:])

    # ---- what is promised --------------------------------------------------------------------------------------------

    def finished(self, state: Full) -> bool:
        return all(slot.at == ENDED for slot in state.slots)

    def judge(self, state: Full) -> Optional[str]:
        for number, delivery in enumerate(state.deliveries):
            if delivery.outcome in (None, WAITING):
                return f"delivery d{number + 1} ended without an outcome: {delivery.outcome or 'it waits for ever'}"
            for ref in delivery.orders:
                if delivery.outcome == OK and self.order(state, ref).answer == "failed":
                    return f"delivery d{number + 1} is delivered, but its order for SIM {SIMS[ref[0]]} failed"
        refused = {d.outcome for d in state.deliveries if d.outcome}
        for k, sim in enumerate(SIMS):
            expected, actual = self.world.final.expected(sim), state.system[k]
            if expected != actual and f"rejected {sim}" not in refused:
                return f"SIM {sim}: PortaBilling says {expected!r}, the external system has {actual!r}"
        if self.scenario.refusals and state.refusals == 0 and not any(o.startswith("rejected") for o in refused):
            if any(self.world.final.expected(sim) != state.system[k] for k, sim in enumerate(SIMS)):
                return "something was refused, and no delivery says so"
        return None

    def history(self, found: Explored) -> list[str]:
        printed = [f"initially: {self.scenario.initial.in_words()}", *self.world.history]
        printed += [f"s{me + 1}: d{job.delivery + 1} of {job.owner} as read at t{job.t}: "
                 f"{base.say(base.Account(job.sim, job.blocked))}" for me, job in enumerate(self.jobs)]
        return printed + ["  " + words(label) for label in found.trace] + [f"BROKEN: {found.violation}"]


def words(label: Label) -> str:
    what, me, *more = label
    said = " ".join(f"{SIMS[one[0]]}/t{one[1]}/{one[2]}" if isinstance(one, tuple) else
                    f"SIM {SIMS[one]}" if one in (0, 1) and not isinstance(one, bool) else str(one) for one in more)
    return f"{'s' + str(me + 1) if me >= 0 else 'order'} {what} {said}".rstrip()


def with_(names: tuple, name: object) -> tuple:
    return names if name in names else tuple(sorted((*names, name)))


def worse(one: str, other: str) -> str:
    rank = {OK: 0, SUPERSEDED: 1, WAITING: 2}
    return one if rank.get(one, 3) >= rank.get(other, 3) else other


SCENARIOS = tuple(
    replace(one, **options)
    for name, options in {
        "block, unblock": {"faults": 2, "spans": False},
        "swap A for B": {"faults": 2, "spans": False},
        "assign A, swap for B": {"faults": 1, "duplicates": False, "spans": False},
        "swap A for B and back": {"faults": 1, "duplicates": False, "spans": False},
        "assign, release": {"faults": 2, "duplicates": False},
        "move A from X to Y": {"faults": 1, "duplicates": False},
        "release, then reassign to X": {"faults": 1, "duplicates": False, "spans": False},
        "refusal: block, unblock": {"duplicates": False},
        "refusal: swap A for B": {"spans": False},
    }.items()
    for one in base.SCENARIOS
    if one.name == name
)


def run(scenario: base.Scenario, rules: Rules, limit: Optional[int] = None) -> list[tuple[Model, Explored]]:
    result = []
    for world in base.worlds(scenario, base.Rules()):
        model = Model(world, scenario, rules)
        result.append((model, explore(model.start(), model.steps, model.finished, model.judge, limit)))
    return result


def counterexample(rules: Rules) -> list[str]:
    best: Optional[tuple[str, Model, Explored]] = None
    for scenario in SCENARIOS:
        for world in base.worlds(scenario, base.Rules()):
            model = Model(world, scenario, rules)
            limit = len(best[2].trace) if best else 30
            found = explore(model.start(), model.steps, model.finished, model.judge, limit)
            if found.violation and (best is None or len(found.trace) < len(best[2].trace)):
                best = scenario.name, model, found
    return [best[0], *best[1].history(best[2])] if best else NONE_FOUND


def main() -> int:
    code = variants(__doc__, Rules, RULES_IN_WORDS, counterexample)
    if code is not None:
        return code
    good = True
    print(f"{'scenario':34}{'worlds':>7}{'states':>9}{'steps':>9}{'ends':>7}{'s':>7}  result")
    for scenario in SCENARIOS:
        found = run(scenario, Rules())
        broken = [(model, one) for model, one in found if one.violation]
        good &= not broken
        sums = [sum(getattr(one, name) for _, one in found) for name in ("states", "steps", "ends", "seconds")]
        print(f"{scenario.name:34}{len(found):7}{sums[0]:9}{sums[1]:9}{sums[2]:7}{sums[3]:7.1f}  "
              f"{'BROKEN' if broken else 'holds'}", flush=True)
        if broken:
            model, one = min(broken, key=lambda each: len(each[1].trace))
            print("\n".join(model.history(one)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
