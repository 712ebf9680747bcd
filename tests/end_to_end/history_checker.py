"""A checker of histories: what was acknowledged, what the external systems saw, what PortaBilling
has and what ESPF heard, in; every violation of what NSPS promises, out.

It believes nothing that NSPS says of itself, but where the history is what is checked. Pure: no
I/O, no clock. Times are seconds on one clock, that of the external systems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from nsps.domain.outcome import Outcome

State = Hashable
"""What a system holds for a resource, as far as it is compared; None where it holds nothing."""


class Rule(StrEnum):
    """What can be violated."""

    LOST = "lost"
    INVENTED = "invented"
    WRONG_END = "wrong end"
    OLDER = "older after newer"
    OVERLAP = "two writers"
    TWICE = "heard twice without a kill"
    UNFINISHED = "unfinished"
    STATUS = "wrong status"


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    what: str


# ---- what is known of a run ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A webhook that got its 200, and when."""

    event_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Kill:
    """``ended``: when what was killed answered again."""

    what: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Write:
    """One write as the system saw it. ``owner``: whose state it is, None for a removal.

    ``cause``: the event that it was made for, where the system is told.
    """

    resource: str
    owner: str | None
    state: State
    began: float
    ended: float
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class StateSystem:
    """A system that holds a state per resource: its writes in order, and what it has in the end.

    ``should``: what it would have, were it PortaBilling.
    """

    name: str
    writes: Sequence[Write]
    has: Mapping[str, State]
    should: Mapping[str, State]


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """An event as a system that counts each one took it."""

    event_id: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class MessageSystem:
    name: str
    received: Sequence[ReceivedMessage]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the history says became of an event for a handler. ``t``: of its snapshot."""

    event_id: str
    handler: str
    outcome: str | None
    t: str = ""
    i_account: int | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class PostedStatus:
    """A status that ESPF heard."""

    i_account: int
    group: str
    status: str


@dataclass(frozen=True, slots=True)
class Run:
    """Everything. ``versions``: per owner, each state that PortaBilling had, in order; no state
    comes twice. ``told``: in the order in which ESPF heard it. ``handlers``: all that want events.
    """

    acknowledged: Sequence[Acknowledged]
    kills: Sequence[Kill] = ()
    versions: Mapping[str, Sequence[State]] = field(default_factory=dict)
    states: Sequence[StateSystem] = ()
    messages: Sequence[MessageSystem] = ()
    handlers: Sequence[str] = ()
    deliveries: Sequence[Delivery] = ()
    posted: Sequence[PostedStatus] = ()


# ---- what is checked -----------------------------------------------------------------------


def violations(run: Run) -> list[Violation]:
    """All that contradicts the promises; an empty list is the proof for this run."""
    known = {each.event_id for each in run.acknowledged}
    found: list[Violation] = []
    for system in run.messages:
        found += _lost(system, run.acknowledged)
        found += _invented(system.name, (each.event_id for each in system.received), known)
        found += _twice(system, run.kills)
    for state_system in run.states:
        causes = (each.cause for each in state_system.writes if each.cause is not None)
        found += _invented(state_system.name, causes, known)
        found += _wrong_end(state_system)
        found += _older(state_system, run.versions)
        found += _overlap(state_system)
    found += _unfinished(run)
    found += _statuses(run.deliveries, run.posted)
    return found


def _lost(system: MessageSystem, acknowledged: Iterable[Acknowledged]) -> Iterator[Violation]:
    received = {each.event_id for each in system.received}
    for each in acknowledged:
        if each.event_id not in received:
            what = f"{system.name} never heard {each.event_id}, acknowledged at {each.at:.3f}"
            yield Violation(Rule.LOST, what)


def _invented(name: str, events: Iterable[str], known: set[str]) -> Iterator[Violation]:
    for event_id in sorted(set(events) - known):
        what = f"{name} was sent {event_id}, which was never acknowledged"
        yield Violation(Rule.INVENTED, what)


def _twice(system: MessageSystem, kills: Sequence[Kill]) -> Iterator[Violation]:
    """Between hearing an event and hearing it again something must have been down."""
    times = defaultdict(list)
    for each in system.received:
        times[each.event_id].append(each)
    for event_id, hearings in times.items():
        for one, other in pairwise(sorted(hearings, key=lambda each: each.began)):
            if not any(k.began <= other.began and k.ended >= one.began for k in kills):
                what = (
                    f"{system.name} heard {event_id} at {one.began:.3f} and {other.began:.3f}, "
                    "and nothing was killed between"
                )
                yield Violation(Rule.TWICE, what)


def _wrong_end(system: StateSystem) -> Iterator[Violation]:
    for resource in sorted({*system.has, *system.should}):
        has, should = system.has.get(resource), system.should.get(resource)
        if has != should:
            what = f"{system.name} has {has} for {resource}, PortaBilling {should}"
            yield Violation(Rule.WRONG_END, what)


def _older(system: StateSystem, versions: Mapping[str, Sequence[State]]) -> Iterator[Violation]:
    """Of one owner's states a resource gets no older one after a newer one.

    Between owners "newest wins" is a promise about the end: a card that moves may be absent, or
    with its former owner once more, for a moment.
    """
    place = {
        owner: {state: number for number, state in enumerate(states)}
        for owner, states in versions.items()
    }
    newest: dict[tuple[str, str], int] = {}
    for write in system.writes:
        if write.owner is None:
            continue
        number = place.get(write.owner, {}).get(write.state)
        if number is None:
            what = f"{write.state} was written for {write.resource}: {write.owner} never had it"
            yield Violation(Rule.INVENTED, f"{system.name}: {what}")
            continue
        key = (write.resource, write.owner)
        if number < newest.get(key, 0):
            had = versions[write.owner][newest[key]]
            what = f"{write.state} was written for {write.resource} after {had}, by {write.cause}"
            yield Violation(Rule.OLDER, f"{system.name}: {what}")
        newest[key] = max(number, newest.get(key, 0))


def _overlap(system: StateSystem) -> Iterator[Violation]:
    by_resource = defaultdict(list)
    for write in system.writes:
        by_resource[write.resource].append(write)
    for resource, writes in by_resource.items():
        under_way: Write | None = None
        for write in sorted(writes, key=lambda each: each.began):
            if under_way is not None and write.began < under_way.ended:
                what = (
                    f"{write.cause} wrote {resource} at {write.began:.3f}, while {under_way.cause} "
                    f"did from {under_way.began:.3f} to {under_way.ended:.3f}"
                )
                yield Violation(Rule.OVERLAP, f"{system.name}: {what}")
            if under_way is None or write.ended > under_way.ended:
                under_way = write


def _unfinished(run: Run) -> Iterator[Violation]:
    """A system that is well takes everything: what was acknowledged ends, and not as refused."""
    became = {(each.event_id, each.handler): each.outcome for each in run.deliveries}
    for event in run.acknowledged:
        for handler in run.handlers:
            outcome = became.get((event.event_id, handler))
            if outcome is None or outcome in _BAD or not Outcome(outcome).final:
                what = f"{event.event_id} is {outcome or 'not in the history'} for {handler}"
                yield Violation(Rule.UNFINISHED, what)


_BAD = frozenset({Outcome.REJECTED, Outcome.EXPIRED})


def _statuses(
    deliveries: Iterable[Delivery], posted: Iterable[PostedStatus]
) -> Iterator[Violation]:
    """What ESPF heard last of an account and group is what the newest outcome says."""
    newest: dict[tuple[int, str], tuple[str, set[str]]] = {}
    for each in deliveries:
        status = Outcome(each.outcome).espf_status if each.outcome else None
        if each.i_account is None or each.group is None or status is None:
            continue
        key = (each.i_account, each.group)
        t, said = newest.get(key, ("", set()))
        if each.t > t:
            newest[key] = (each.t, {status})
        elif each.t == t:
            said.add(status)
    last = {(each.i_account, each.group): each.status for each in posted}
    for key in sorted({*newest, *last}):
        said = newest.get(key, ("", set()))[1]
        if last.get(key) not in said:
            i_account, group = key
            what = f"ESPF heard {last.get(key)} of {i_account} in {group}, the history says {said}"
            yield Violation(Rule.STATUS, what)
