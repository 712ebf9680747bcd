"""Late answers of asynchronous systems: found, settled, reported; repeated and late ones recorded.

An answer settles its order and the order's resource in one transaction; then each delivery that
waited for the order is finished in a transaction of its own. ``settled`` stays false until all of
that is done, so a tick (or the same answer again) completes what a crash cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from google.cloud.firestore import ArrayRemove, FieldFilter

from nsps.cloud.store import HISTORY_DAYS, TOMBSTONE_DAYS, Store, Tx
from nsps.delivery.ledger import protocol
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import answers_together, unknown_name
from nsps.domain.event import MESSAGE_KEY, SnapshotTime
from nsps.domain.outcome import AnswerState, Outcome
from nsps.espf import outbox
from nsps.espf.poster import note_status

if TYPE_CHECKING:
    from google.cloud.firestore import Query

MAX_ANSWERS = 20
"""How many of an order's answers are kept."""
MOST_DUE = 200
"""How many orders a tick deals with for each handler."""
COMPLETE_SECONDS = 60.0
"""After so long a tick completes what the call that took the answer in did not."""


class AnswerEffect(StrEnum):
    """What became of an answer."""

    PROGRESS = "progress"
    SETTLED = "settled"
    CORRECTED = "corrected"
    REPEATED = "repeated"
    LATE = "late"  # contradicts, or comes after, an answer that stands
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """One answer. ``order``: the system's id or our reference; ``message`` without secrets.

    ``ours``: we gave up waiting (a deadline); a real answer corrects it.
    """

    order: str
    state: AnswerState
    message: str = ""
    at: datetime | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What ``record`` did: the statuses to post, and the deliveries to send again."""

    effect: AnswerEffect
    reference: str = ""
    posts: tuple[outbox.Post, ...] = ()
    followers: tuple[str, ...] = ()


class Orders:
    """The open orders of all asynchronous handlers, and the messages without a receipt yet."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, handler: str, answer: LateAnswer) -> Settlement:
        """Record an answer and what it changes. Raises StoreUnavailable: have it sent again."""
        reference = self._find(handler, answer.order) or self._store.transact(
            partial(self._unknown, handler=handler, answer=answer)
        )
        if reference is None:
            return Settlement(AnswerEffect.UNKNOWN)
        effect = self._store.transact(
            partial(self._take_in, handler=handler, reference=reference, answer=answer)
        )
        if effect in (AnswerEffect.PROGRESS, AnswerEffect.LATE):
            return Settlement(effect, reference)
        return self.complete(handler, reference, effect)

    def complete(
        self, handler: str, reference: str, effect: AnswerEffect = AnswerEffect.SETTLED
    ) -> Settlement:
        """Finish the deliveries of an answered order (again, if a crash cut it off)."""
        order = self._order(handler, reference) or {}
        posts = []
        for delivery in order.get("deliveries", []):
            post = self._store.transact(
                partial(self._finish, handler=handler, delivery=delivery, order=order)
            )
            posts += [post] if post else []
        return Settlement(effect, reference, tuple(posts), tuple(order.get("followers", [])))

    def settle(self, handler: str, reference: str, followers: tuple[str, ...]) -> None:
        """Statuses are posted and followers are sent: nothing of this order is left to do."""
        fields: dict[str, Any] = {"settled": True, "due_at": None}
        if followers:
            fields["followers"] = ArrayRemove(list(followers))
        self._store.call(lambda: self._store.order(handler, reference).set(fields, merge=True))

    def due(self, handler: str, now: datetime) -> list[dict[str, Any]]:
        """Orders whose time is over: not answered by then, or answered and not completed.

        ``now``: Firestore's time, by which the orders' times were set.
        """
        query = self._store.orders(handler).where(filter=FieldFilter("due_at", "<=", now))
        return self._store.find(query.order_by("due_at").limit(MOST_DUE))

    def claim(self, handler: str, reference: str, seconds: float) -> float | None:
        """Put a due order off, to ask for it now; the days since it was taken.

        None if another has it, or it is answered.
        """

        def body(tx: Tx) -> float | None:
            at = self._store.order(handler, reference)
            order = tx.read([at])[at.path] or {}
            due = order.get("due_at")
            if due is None or due > tx.now or order.get("answer"):
                return None
            tx.merge(at, {"due_at": tx.after(seconds=seconds), "asked_at": tx.now})
            return float((tx.now - order["accepted_at"]) / timedelta(days=1))

        return self._store.transact(body)

    def _find(self, handler: str, name: str) -> str | None:
        """By our reference, else by the system's id."""
        if self._order(handler, name):
            return name
        found = self._store.find(self._of_id(handler, name))
        return str(found[0]["reference"]) if found else None

    def _of_id(self, handler: str, order_id: str) -> Query:
        query = self._store.orders(handler).where(filter=FieldFilter("order_id", "==", order_id))
        return query.limit(1)

    def _order(self, handler: str, reference: str) -> dict[str, Any] | None:
        if not reference:
            return None
        return self._store.read(self._store.order(handler, reference))

    def _unknown(self, tx: Tx, handler: str, answer: LateAnswer) -> str | None:
        """Kept under the name it came with: an acceptance that comes later looks here.

        One that came just now is found (its reference): this looks in the same transaction.
        """
        orders = self._store.orders(handler)
        for order in tx.query(orders, "order_id", answer.order, limit=1).values():
            return str(order["reference"])
        reference = self._store.order(handler, unknown_name(answer.order))
        before = tx.read([reference])[reference.path] or {}
        fields = _answer_fields(before, answer, tx)
        if answer.state is not AnswerState.PROGRESS:
            fields["answer"] = answer.state.value
            fields["message"] = answer.message
        fields |= {"unknown": answer.order, "expire_at": tx.after(days=HISTORY_DAYS)}
        tx.merge(reference, fields)
        return None

    def _take_in(self, tx: Tx, handler: str, reference: str, answer: LateAnswer) -> AnswerEffect:
        at = self._store.order(handler, reference)
        order = tx.read([at])[at.path] or {}
        effect = _judge(order, answer)
        fields = _answer_fields(order, answer, tx)
        if effect in (AnswerEffect.SETTLED, AnswerEffect.CORRECTED):
            fields |= {
                "answer": answer.state.value,
                "answered_at": answer.at or tx.now,
                "answer_ours": answer.ours,
                "message": answer.message,
                "settled": False,
                "due_at": tx.after(seconds=COMPLETE_SECONDS),
                "expire_at": tx.after(days=TOMBSTONE_DAYS),
            }
            self._settle_resource(tx, handler, order, answer, effect)
        tx.merge(at, fields)
        return effect

    def _settle_resource(
        self,
        tx: Tx,
        handler: str,
        order: Mapping[str, Any],
        answer: LateAnswer,
        effect: AnswerEffect,
    ) -> None:
        if str(order["key"]).startswith(MESSAGE_KEY):
            return  # it was sent, whatever became of it
        at = self._store.resource(handler, str(order["key"]))
        resource = Resource.read(tx.read([at])[at.path])
        pending = resource.pending
        if pending is None or pending.reference != order["reference"]:
            # What the ledger made of the first answer is in doubt.
            if effect is AnswerEffect.CORRECTED:
                tx.merge(at, {"dirty": True})
            return  # else: given up, or a newer order's
        if pending.doubt_until is not None and resource.held_by_other("", tx.now):
            return  # not accepted yet: the acceptance reads the answer
        if answer.state is AnswerState.DONE:
            after = protocol.settled(resource, order["wanted"] or None)
            people = {"state": order.get("state") if after.owner else None}
        else:
            after = protocol.not_settled(resource)
            people = {}
        expire = None if after.owner else tx.after(days=TOMBSTONE_DAYS)
        tx.merge(at, after.write() | people | {"changed_at": tx.now, "expire_at": expire})

    def _finish(
        self, tx: Tx, handler: str, delivery: str, order: Mapping[str, Any]
    ) -> outbox.Post | None:
        """Finish one delivery if all its orders are answered."""
        at = self._store.delivery(handler, delivery)
        data = tx.read([at])[at.path]
        if data is None or not _waits(data):
            return None
        others = [self._store.order(handler, name) for name in data.get("orders", [])]
        i_account, group = order.get("i_account"), order.get("group")
        status = self._store.status(i_account, group) if i_account and group else None
        found = tx.read([*others, *([status] if status else [])])
        came = answers_together([(found[other.path] or {}) for other in others])
        if came is None or data.get("outcome") == came[0]:
            return None
        outcome, errors = came
        tx.merge(
            at,
            {
                "outcome": outcome.value,
                "by_answer": True,
                "errors": list(errors),
                "finished_at": tx.now,
                "last_at": tx.now,
                "expire_at": tx.after(days=HISTORY_DAYS),
            },
        )
        t = SnapshotTime(data["t"])
        return note_status(self._store, tx, found, i_account, group, t, outcome, "; ".join(errors))


def _judge(order: Mapping[str, Any], answer: LateAnswer) -> AnswerEffect:
    stands = order.get("answer")
    if answer.state is AnswerState.PROGRESS:
        return AnswerEffect.LATE if stands else AnswerEffect.PROGRESS
    if not stands:
        return AnswerEffect.SETTLED
    if stands == answer.state.value:
        return AnswerEffect.REPEATED
    if order.get("answer_ours") and not answer.ours:
        return AnswerEffect.CORRECTED
    if str(order.get("key", "")).startswith(MESSAGE_KEY):
        # What has arrived has arrived, whatever is said of a repetition of it under the same name.
        arrived = answer.state is AnswerState.DONE and not answer.ours
        return AnswerEffect.CORRECTED if arrived else AnswerEffect.LATE
    when = order.get("answered_at")
    if answer.at is not None and when is not None and answer.at > when:
        return AnswerEffect.CORRECTED
    return AnswerEffect.LATE


def _answer_fields(order: Mapping[str, Any], answer: LateAnswer, tx: Tx) -> dict[str, Any]:
    new = {"at": tx.now, "state": answer.state.value, "message": answer.message}
    return {"answers": [*order.get("answers", []), new][-MAX_ANSWERS:], "last_answer_at": tx.now}


def _waits(delivery: Mapping[str, Any]) -> bool:
    """Whether answers decide: it was accepted (or an answer decided it, and another corrects it).

    Not one that was refused, superseded, has expired, or has begun anew with another snapshot.
    """
    outcome = delivery.get("outcome")
    if outcome in (Outcome.DELIVERED, Outcome.REJECTED):
        return bool(delivery.get("by_answer"))
    return bool(outcome == Outcome.ACCEPTED)
