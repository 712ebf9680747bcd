#!/usr/bin/env python3
"""Executable specification of the status that NSPS reports to ESPF, per (account, group). Rule 11 of the design.

Several deliveries for one account finish in any order, each with the time of its snapshot; every finished delivery
writes its outcome to the document (account, group) in the transaction that records the outcome. Posters bring the
document to ESPF. A post may fail before or after ESPF has taken it; a poster may crash or be slow. ESPF compares
nothing: the last post it takes is what PortaBilling shows. A status may carry a message ("FAILED: no such IMSI").

    python status_model.py                    explores everything, a table
    python status_model.py --without order    leave out one rule: prints a shortest counterexample
    python status_model.py --variants         every rule in turn
"""
from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

from model_command import NONE_FOUND, table, variants
from provisioning_model import Explored, Label, Step, explore


@dataclass(frozen=True)
class Rules:
    order: bool = True      # an outcome of an older snapshot does not replace that of a newer one
    phase: bool = True      # of one delivery, RETRY < IN_PROGRESS < OK or FAILED
    outbox: bool = True     # the status is stored with the outcome, in one transaction, and posted from there
    revision: bool = True   # "posted" is recorded for the revision that was posted, not for what has come since
    lease: bool = True      # one poster at a time for one (account, group)
    hold: bool = True       # after a post without an answer the lease is left to run out
    timeouts: bool = True   # no post outlives the lease it was started under
    check: bool = True      # no post is started by a poster whose lease has run out
    same: bool = True       # noting what is noted already (status and message) is no new revision
    advance: bool = True    # ... but the document's snapshot time moves on (without: nothing is written)


RULES_IN_WORDS = {
    "order": "an older outcome never replaces a newer one",
    "phase": "of one delivery, a later phase is never replaced by an earlier one",
    "outbox": "stored in the transaction of the outcome, posted from there (without: posted directly)",
    "revision": "posted = the revision that was posted",
    "lease": "one poster at a time",
    "hold": "lease kept after a post without an answer",
    "timeouts": "lease longer than the longest post",
    "check": "lease looked at before the post",
    "same": "what is noted already (status and message) is no new revision",
    "advance": "noting it all the same moves the snapshot time on",
}

# What a delivery reports, in the order in which it reports it. Its last report is its outcome.
PHASE = {"RETRY": 0, "IN_PROGRESS": 1, "OK": 2, "FAILED": 2}


def phase_of(status: str) -> int:
    """The phase of a status; what follows a colon is its message."""
    return PHASE[status.partition(":")[0]]


class Delivery(NamedTuple):
    t: int
    reports: tuple[str, ...]    # "": nothing is told to ESPF (superseded, parked)
    racing: bool = False        # its reports come from different functions: noted in any order


SCENARIOS: dict[str, tuple[Delivery, ...]] = {
    "OK before FAILED": (Delivery(1, ("OK",)), Delivery(2, ("FAILED",))),
    "retry, then OK; newer FAILED": (Delivery(1, ("RETRY", "OK")), Delivery(2, ("FAILED",))),
    "asynchronous, and a newer one": (Delivery(1, ("IN_PROGRESS", "FAILED")), Delivery(2, ("IN_PROGRESS", "OK"))),
    "one snapshot, two events": (Delivery(1, ("FAILED",)), Delivery(1, ("OK",))),
    "superseded in between": (Delivery(1, ("OK",)), Delivery(2, ("",)), Delivery(3, ("RETRY", "FAILED"))),
    "answer before acceptance noted": (Delivery(1, ("IN_PROGRESS", "OK"), True), Delivery(2, ("IN_PROGRESS", "FAILED"), True)),
    "late answers (callbacks)": (Delivery(1, ("RETRY", "IN_PROGRESS", "FAILED")), Delivery(2, ("OK",))),
    "the same again": (Delivery(1, ("OK",)), Delivery(2, ("OK",))),
    "the same, another, the same": (Delivery(1, ("OK",)), Delivery(2, ("FAILED",)), Delivery(3, ("OK",))),
    "the same of one snapshot": (Delivery(1, ("FAILED",)), Delivery(1, ("OK",)), Delivery(1, ("FAILED",))),
    "retried with the same message": (Delivery(1, ("RETRY: down", "RETRY: down", "OK")), Delivery(2, ("RETRY: down", "FAILED"))),
    "another message": (Delivery(1, ("RETRY: down", "RETRY: slow", "FAILED: no")), Delivery(2, ("FAILED: never",))),
    "asynchronous, the same twice": (Delivery(1, ("IN_PROGRESS", "OK"), True), Delivery(2, ("IN_PROGRESS", "OK"), True)),
}

FREE, ABANDONED = -1, -2
POSTERS = 2


class Status(NamedTuple):
    """Document (account, group)."""

    t: int = 0                  # snapshot time of the delivery that wrote it
    phase: int = -1
    status: str = ""
    revision: int = 0           # counts the writes of this document
    posted: int = 0             # the revision that ESPF is known to have
    lease: int = FREE


class Poster(NamedTuple):
    at: str = "idle"            # idle, taken, posting, done
    status: str = ""
    revision: int = 0


class Full(NamedTuple):
    reported: tuple[frozenset[int], ...]    # which of its reports each delivery has made
    doc: Status
    posters: tuple[Poster, ...]
    espf: str
    stray: str                              # a post nobody waits for any more
    direct: tuple[str, ...]                 # without the outbox: what the deliveries themselves have still to post
    last: tuple[int, int, str]              # for the check: newest (t, phase, status) so far; ties: the later one
    since: tuple[str, ...]                  # for the check: what was noted at revision `posted` and at each later one
    faults: int


class Model:
    def __init__(self, deliveries: tuple[Delivery, ...], rules: Rules, faults: int = 2) -> None:
        self.deliveries, self.rules, self.faults = deliveries, rules, faults

    def start(self) -> Full:
        nothing: tuple[frozenset[int], ...] = (frozenset(),) * len(self.deliveries)
        return Full(nothing, Status(), (Poster(),) * POSTERS, "", "", ("",) * len(self.deliveries), (0, -1, ""),
                    ("",), self.faults)

    def steps(self, state: Full) -> list[Step]:
        result: list[Step] = []
        for number, delivery in enumerate(self.deliveries):
            still = [i for i in range(len(delivery.reports)) if i not in state.reported[number]]
            if not state.direct[number]:
                result += [self.report(state, number, i) for i in (still if delivery.racing else still[:1])]
            if state.direct[number]:        # without the outbox
                empty = state.direct[:number] + ("",) + state.direct[number + 1:]
                result.append(Step(("posts directly", number, state.direct[number]),
                                   state._replace(espf=state.direct[number], direct=empty)))
                if state.faults:
                    result.append(Step(("crashes with its outcome", number),
                                       state._replace(direct=empty, faults=state.faults - 1)))
        if self.rules.outbox:
            for me in range(POSTERS):
                result += self.poster_steps(state, me)
        if state.stray:
            result.append(Step(("lands late", 0, state.stray), state._replace(espf=state.stray, stray="")))
        return result

    def report(self, state: Full, number: int, which: int) -> Step:
        """TRANSACTION: the delivery's outcome (or phase), and the document (account, group)."""
        rules, delivery, doc = self.rules, self.deliveries[number], state.doc
        status = delivery.reports[which]
        made = state.reported[number] | {which}
        reported = state.reported[:number] + (made,) + state.reported[number + 1:]
        after = state._replace(reported=reported)
        if not status:
            return Step(("says nothing", number), after)
        phase = phase_of(status)
        if (delivery.t, phase) >= state.last[:2]:
            after = after._replace(last=(delivery.t, phase, status))
        if not rules.outbox:
            direct = state.direct[:number] + (status,) + state.direct[number + 1:]
            return Step(("has the outcome", number, status), after._replace(direct=direct))
        older = rules.order and delivery.t < doc.t
        earlier = rules.phase and delivery.t == doc.t and phase < doc.phase
        if older or earlier:
            return Step(("is older, not noted", number, status), after)
        if rules.same and status == doc.status:
            # No new revision: this one is posted, or will be. The snapshot is the newer one all the same.
            known = doc._replace(t=delivery.t, phase=phase) if rules.advance else doc
            return Step(("is noted already", number, status), after._replace(doc=known))
        noted = doc._replace(t=delivery.t, phase=phase, status=status, revision=doc.revision + 1)
        after = after._replace(since=state.since + (status,))
        return Step(("notes", number, status), after._replace(doc=noted))

    def poster_steps(self, state: Full, me: int) -> list[Step]:
        rules, doc, poster = self.rules, state.doc, state.posters[me]
        result: list[Step] = []
        if poster.at == "idle":
            # TRANSACTION take: the newest revision, if ESPF does not have it and nobody is posting.
            if doc.posted == doc.revision or (rules.lease and doc.lease not in (FREE, ABANDONED)):
                return []
            taken = doc._replace(lease=me if rules.lease else FREE)
            again = None
            if doc.posted and len(set(state.since)) == 1:
                again = f"{doc.status} is posted again although ESPF is known to have it"
            return [Step(("takes", me, doc.status),
                         self.put(state, me, Poster("taken", doc.status, doc.revision))._replace(doc=taken), again)]
        mine = doc.lease == me or not rules.lease
        if poster.at == "taken":
            # LOCAL: enough of the lease left for the longest post? Then start it.
            if rules.check and not mine:
                result.append(Step(("finds its lease gone", me), self.put(state, me, Poster())))
            else:
                result.append(Step(("starts to post", me, poster.status),
                                   self.put(state, me, poster._replace(at="posting"))))
            if state.faults:
                gone = doc._replace(lease=ABANDONED if doc.lease == me else doc.lease)
                result.append(Step(("crashes before its post", me),
                                   self.put(state, me, Poster())._replace(doc=gone, faults=state.faults - 1)))
        if poster.at == "posting":
            # THE CALL. Under `timeouts` the lease cannot run out before the call has ended.
            after = self.put(state, me, poster._replace(at="done"))._replace(espf=poster.status)
            result.append(Step(("posts", me, poster.status), after))
            if state.faults:
                gone = doc._replace(lease=ABANDONED if mine and rules.lease else doc.lease)
                free = doc._replace(lease=FREE if mine else doc.lease)
                result.append(Step(("is told 'not now'", me, poster.status),
                                   self.put(state, me, Poster())._replace(doc=free, faults=state.faults - 1)))
                for espf, what in ((state.espf, "no answer, not taken"), (poster.status, "no answer, but taken")):
                    lost = self.put(state, me, Poster())._replace(espf=espf, doc=gone, faults=state.faults - 1)
                    result.append(Step((what, me, poster.status), lost))
                if not rules.hold and not state.stray:
                    lost = self.put(state, me, Poster())._replace(doc=gone, stray=poster.status, faults=state.faults - 1)
                    result.append(Step(("no answer, still under way", me, poster.status), lost))
        if poster.at == "done":
            # TRANSACTION posted: only the holder; and for the revision that was posted.
            if mine:
                posted = poster.revision if rules.revision else doc.revision
                since = state.since[max(0, posted - doc.posted):]
                result.append(Step(("records as posted", me, poster.status),
                                   self.put(state, me, Poster())._replace(doc=doc._replace(posted=posted, lease=FREE),
                                                                          since=since)))
            else:
                result.append(Step(("has lost its lease", me), self.put(state, me, Poster())))
            if state.faults:
                gone = doc._replace(lease=ABANDONED if doc.lease == me else doc.lease)
                result.append(Step(("crashes after its post", me),
                                   self.put(state, me, Poster())._replace(doc=gone, faults=state.faults - 1)))
        if state.faults and doc.lease == me and (poster.at != "posting" or not rules.timeouts):
            result.append(Step(("is slow, its lease runs out", me),
                               state._replace(doc=doc._replace(lease=FREE), faults=state.faults - 1)))
        return result

    @staticmethod
    def put(state: Full, me: int, poster: Poster) -> Full:
        return state._replace(posters=state.posters[:me] + (poster,) + state.posters[me + 1:])

    def finished(self, state: Full) -> bool:
        return all(len(made) == len(d.reports) for made, d in zip(state.reported, self.deliveries)) and \
            all(poster.at == "idle" for poster in state.posters)

    def judge(self, state: Full) -> Optional[str]:
        if state.espf != state.last[2]:
            return f"the newest outcome is {state.last[2]!r}, PortaBilling was told {state.espf!r}"
        return None

    def words(self, label: Label) -> str:
        what, who, *more = label
        status = f" {more[0]}" if more else ""
        if what in ("notes", "is noted already", "is older, not noted", "says nothing", "has the outcome", "posts directly",
                    "crashes with its outcome"):
            return f"d{who + 1}(t{self.deliveries[who].t}) {what}{status}"
        if what == "lands late":
            return f"a post nobody waits for lands only now:{status}"
        return f"poster {who + 1} {what}{status}"

    def history(self, found: Explored) -> list[str]:
        return [f"d{n + 1}: snapshot t{d.t}, reports {', '.join(d.reports)}" for n, d in enumerate(self.deliveries)] \
            + ["  " + self.words(label) for label in found.trace] + [f"BROKEN: {found.violation}"]


def run(deliveries: tuple[Delivery, ...], rules: Rules) -> tuple[Model, Explored]:
    model = Model(deliveries, rules)
    return model, explore(model.start(), model.steps, model.finished, model.judge)


def counterexample(rules: Rules) -> list[str]:
    tries = [(name, *run(deliveries, rules)) for name, deliveries in SCENARIOS.items()]
    broken = [(name, model, found) for name, model, found in tries if found.violation]
    if not broken:
        return NONE_FOUND
    name, model, found = min(broken, key=lambda one: len(one[2].trace))
    return [name, *model.history(found)]


def main() -> int:
    code = variants(__doc__, Rules, RULES_IN_WORDS, counterexample)
    explored = ((name, *run(deliveries, Rules())) for name, deliveries in SCENARIOS.items())
    return table(explored, 34) if code is None else code


if __name__ == "__main__":
    sys.exit(main())
