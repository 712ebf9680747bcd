"""The protocol's decisions, as pure functions of documents and the server's time.

Each function is one step of tests/model/README.md (section 1), by the same name. The model's rules
are named in the comments, so that a line can be found in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto

from nsps.delivery.ledger.documents import Delivery, Pending, Resource, Watermark
from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import Outcome

MOST_READ_AGAIN = 3
"""How often a message is read again while the one that overtook it has not got through."""


class Begun(Enum):
    """What ``begin`` found."""

    GO = auto()
    ALREADY_FINAL = auto()
    NEWER_COPY = auto()
    SUPERSEDED = auto()


class CallEnd(Enum):
    """How a call ended that is to be tried again."""

    NOT_DONE = auto()
    """The system answered that it did nothing."""
    UNCLEAR = auto()
    """It answered, but not whether it did it. Nothing more of the call can take effect."""
    UNDER_WAY = auto()
    """There was no answer: the call may still take effect."""


class Todo(Enum):
    RELEASE = auto()
    CLAIM = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """One resource to do; ``wanted`` is the digest of the desired state (None for a release)."""

    todo: Todo
    key: str
    wanted: str | None = None


class Taken(Enum):
    """What ``take`` decided."""

    CALL = auto()
    """The lease is mine: call the external system."""
    UNCHANGED = auto()
    NOT_MINE = auto()
    CLAIMED_LATER = auto()
    GAVE_WAY = auto()
    BUSY = auto()
    JOINED = auto()
    """Asynchronous: an order for this very state is on its way; its answer counts for us."""
    QUEUED = auto()
    """Asynchronous: another order is on its way; its answer brings us back."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a take would write: my token, and until when on the server's clock.

    ``reference``: the name of the order that the call would submit, for an asynchronous system.
    """

    token: str
    now: datetime
    until: datetime
    reference: str = ""


def begin(
    delivery: Delivery, watermark: Watermark, t: SnapshotTime, *, yields: bool = True
) -> Begun:
    """Step 1. The caller writes delivery.t := t and watermark := max(watermark, t) on GO.

    ``yields``: another delivery that began with the same snapshot does for this one as well; not
    where somebody asks for this very one.
    """
    if delivery.outcome is not None and delivery.outcome.final:
        return Begun.ALREADY_FINAL  # rule final: the watermark is not moved
    if delivery.t > t:
        return Begun.NEWER_COPY  # rule copy
    if watermark.t > t:
        return Begun.SUPERSEDED  # rule watermark
    if yields and watermark.t == t and delivery.t != t:
        return Begun.SUPERSEDED  # rule own: who has begun with this snapshot never yields to itself
    return Begun.GO


def plan(owned: Iterable[str], desired: Mapping[str, str]) -> list[Step]:
    """Step 2: first a release for each owned key that is not desired, then the claims.

    ``owned``: keys whose ledger owner is this owner. ``desired``: key -> digest.
    """
    releases = [Step(Todo.RELEASE, key) for key in sorted(owned) if key not in desired]
    return releases + [Step(Todo.CLAIM, key, digest) for key, digest in desired.items()]


def take(
    step: Step,
    resource: Resource,
    watermark: Watermark,
    owner: str,
    t: SnapshotTime,
    lease: Lease,
    *,
    asked: bool = False,
    effects: bool = False,
) -> tuple[Taken, Resource]:
    """Step 3, inside the transaction that reads both documents (rule atomic).

    ``asked``: somebody asks for the write; the ledger's word that it is so already does not do.
    ``effects``: something has to follow each write; it is owed from before the write on.
    """
    if watermark.t > t:
        return Taken.GAVE_WAY, resource  # rule recheck
    if resource.held_by_other(lease.token, lease.now):
        return Taken.BUSY, resource
    if step.todo is Todo.RELEASE:
        if resource.owner != owner:
            return Taken.NOT_MINE, resource  # rule owner
    else:
        if resource.claim_t > t:
            return Taken.CLAIMED_LATER, resource
        sure = resource.confirmed == step.wanted and not resource.dirty
        if resource.owner == owner and sure and not asked:
            return Taken.UNCHANGED, replace(resource, claim_t=t)  # rule touch
    if resource.pending is not None and not _may_order(resource.pending, lease):
        return _behind_an_order(step, resource, owner, t)
    taken = replace(resource, dirty=True, lease=lease.token, lease_until=lease.until)
    taken = replace(taken, owed=resource.owed or effects)  # rules owed and owing
    if step.todo is Todo.CLAIM:
        others = resource.owner != owner and (resource.dirty or resource.confirmed is not None)
        # rule intent: owner and claim time are written before the call
        taken = replace(taken, owner=owner, claim_t=t, foreign=resource.foreign or others)
    return Taken.CALL, taken


def _may_order(pending: Pending, lease: Lease) -> bool:
    """An order in doubt may be submitted again; another one once the doubt has passed."""
    if pending.doubt_until is None:
        return False
    return pending.reference == lease.reference or pending.doubt_until <= lease.now


def _behind_an_order(
    step: Step, resource: Resource, owner: str, t: SnapshotTime
) -> tuple[Taken, Resource]:
    """One order at a time for a key: an order manager promises no order among several."""
    assert resource.pending is not None
    if resource.pending.doubt_until is not None:
        return Taken.BUSY, resource  # rule doubt
    if resource.owner == owner and resource.pending.wanted == (step.wanted or ""):
        joined = replace(resource, claim_t=t) if step.todo is Todo.CLAIM else resource
        return Taken.JOINED, joined
    return Taken.QUEUED, resource


def may_read_again(delivery: Delivery, resource: Resource) -> bool:
    """A message that another one overtook (message_model.py): read its event again, or wait?

    While calls fail, two messages would overtake each other for ever, each time as a new message
    with all its attempts before it (rule bounded). Who waits uses up its own.
    """
    return not resource.dirty or delivery.read_again < MOST_READ_AGAIN


def over(resource: Resource, token: str) -> Resource | None:
    """A message was refused: its call is over, and no other waits for it (rule over).

    What the system holds now is not known: whatever comes next is sent.
    """
    if not resource.held_by(token):
        return None
    return replace(resource, dirty=False, confirmed=None, lease=None, lease_until=None)


def confirm(resource: Resource, step: Step, token: str) -> Resource | None:
    """Step 5, done: the resource as the system now has it; None if the lease is not mine."""
    if not resource.held_by(token):
        return None  # rule token
    return settled(resource, step.wanted if step.todo is Todo.CLAIM else None)


def settled(resource: Resource, confirmed: str | None) -> Resource:
    """The system confirmed a state (a digest) or an absence (None)."""
    return replace(
        resource,
        # rule claimtime: claim_t stays as it is, also for a tombstone
        owner=resource.owner if confirmed is not None else None,
        confirmed=confirmed,
        dirty=False,
        foreign=False,
        owed=False,
        lease=None,
        lease_until=None,
        pending=None,
    )


def not_written(resource: Resource, found: Resource, token: str) -> Resource:
    """Nothing was written: no more is owed than was ``found`` when the resource was taken."""
    return replace(resource, owed=found.owed) if resource.held_by(token) else resource


def give_back(resource: Resource, token: str) -> Resource:
    """The call was refused, or was not done: free the lease if it is mine. It stays dirty."""
    if not resource.held_by(token):
        return resource
    return replace(resource, lease=None, lease_until=None)


def intend(resource: Resource, step: Step, reference: str, doubt_until: datetime) -> Resource:
    """Before an order is submitted: from now on it may be open (rule doubt of order_model.py)."""
    before = resource.pending
    again = before is not None and before.reference == reference
    submitted = before.submitted + 1 if before is not None and again else 1
    return replace(resource, pending=Pending(reference, step.wanted or "", doubt_until, submitted))


def not_ordered(resource: Resource, token: str, *, refused: bool) -> Resource:
    """The system answered that it has not taken the order: it is not open.

    "Not now" says nothing about an earlier submission of the same order without an answer.
    """
    pending = resource.pending
    if pending is None or pending.doubt_until is None or not resource.held_by(token):
        return resource
    return replace(resource, pending=None) if refused or pending.submitted == 1 else resource


def accept(resource: Resource, step: Step, token: str, reference: str) -> Resource | None:
    """An asynchronous system took the order: it stays dirty until the answer comes."""
    if not resource.held_by(token):
        return None
    return replace(
        resource,
        lease=None,
        lease_until=None,
        pending=Pending(reference, step.wanted or ""),
    )


def not_settled(resource: Resource) -> Resource:
    """The system answered that an order failed: what it holds is in doubt, the next may order."""
    return replace(resource, pending=None)


def may_finish(delivery: Delivery, t: SnapshotTime) -> bool:
    """Step 6: whether this attempt decides the delivery (rule copy, second half)."""
    open_still = delivery.outcome is None or not delivery.outcome.final
    return open_still and delivery.t == t


# The worst of an attempt's resources is the delivery's outcome.
OUTCOME_OF = {
    Taken.UNCHANGED: Outcome.UNCHANGED,
    Taken.NOT_MINE: Outcome.UNCHANGED,
    Taken.CLAIMED_LATER: Outcome.SUPERSEDED,
    Taken.GAVE_WAY: Outcome.SUPERSEDED,
    Taken.JOINED: Outcome.ACCEPTED,
}
