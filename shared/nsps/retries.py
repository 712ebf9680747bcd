"""The flow of retries: dead letters are parked, sent again on the ladder, and at last expired.

A parked event goes back through enrichment, for its one handler, so that it never writes what
PortaBilling no longer says. It is sent before its next try is written down: cut off between, it is
sent twice, which the ledger bears; never forgotten.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.cloud.firestore import FieldFilter

from nsps import log
from nsps.callbacks import Answers
from nsps.espf import outbox
from nsps.espf.poster import Poster
from nsps.event import SnapshotTime
from nsps.ledger.ledger import note_status
from nsps.ledger.orders import Orders
from nsps.messages import MalformedMessage, Publisher, PushMessage, RawEventMessage
from nsps.outcome import Outcome, Transient
from nsps.retry import LADDER, Ladder
from nsps.settings import HandlerSummary
from nsps.store import HISTORY_DAYS, Store, Tx
from nsps.trace import from_attributes

_log = log.get(__name__)

ENRICHMENT = "enrichment"
SOURCE = "CloudPubSubDeadLetterSourceSubscription"
SEND_SECONDS = 60.0
PER_TICK = 200
"""At most so many parked events are sent at one tick: an outage does not return as a flood."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one tick did."""

    statuses: int
    sent: int
    expired: int
    orders: int


class Retries:
    """Parks and sends again; one per instance, safe to share between threads and instances."""

    def __init__(
        self,
        deployment: str,
        handlers: Sequence[HandlerSummary],
        store: Store,
        poster: Poster,
        publisher: Callable[[], Publisher],
        topic: str,
        answers: Answers,
        ladder: Ladder = LADDER,
    ) -> None:
        self._prefix = f"{deployment}-"
        self._handlers = {handler.name: handler for handler in handlers}
        self._store, self._poster, self._answers = store, poster, answers
        self._publisher, self._topic, self._ladder = publisher, topic, ladder

    def park(self, push: PushMessage) -> None:
        """Keep a dead letter in Firestore with its next try. Raises Transient, MalformedMessage."""
        stage = self._stage(push)
        event_id = push.attributes.get("event_id")
        if not event_id:
            raise MalformedMessage("a dead letter has no attribute event_id")
        run = push.attributes.get("run")
        delivery = f"{event_id}.{run}" if run else event_id
        body = _body(push)
        kept = {
            "stage": stage,
            "handler": None if stage == ENRICHMENT else stage,
            "only": push.attributes.get("handler"),
            "event_id": event_id,
            "run": int(run) if run else None,
            "delivery": delivery,
            "body": body,
            "received_at": push.attributes.get("received_at", ""),
            "trace_id": push.attributes.get("trace_id", ""),
            "request_id": push.attributes.get("request_id", ""),
        }
        self._store.transact(lambda tx: self._park(tx, stage, delivery, kept))
        _log.warning("parked: all attempts used", stage=stage)

    def _park(self, tx: Tx, stage: str, delivery: str, kept: Mapping[str, Any]) -> None:
        at = self._store.parked(f"{stage}.{delivery}")
        about = self._about(stage, delivery, str(kept["event_id"]))
        found = tx.read([at, about])
        if found[at.path] and (found[at.path] or {}).get("next_try"):
            return  # parked already: the same dead letter twice
        data = found[about.path] or {}
        outcome = data.get("outcome")
        if stage != ENRICHMENT and outcome and Outcome(outcome).final:
            return
        next_try = self._ladder.next(tx.now, 0, tx.now)
        reason = (data.get("retry") or {}).get("error", "all attempts were used")
        tx.merge(
            at,
            {
                **kept,
                "parked_at": tx.now,
                "tries": 0,
                "next_try": next_try,
                "reason": reason,
                "expire_at": tx.after(days=self._ladder.days + HISTORY_DAYS),
            },
        )
        parked = {"next_try": next_try, "expire_at": tx.after(days=HISTORY_DAYS + 30)}
        word = "state" if stage == ENRICHMENT else "outcome"
        tx.merge(about, {word: Outcome.PARKED.value, **parked})

    def tick(self) -> Ticked:
        """Post due statuses, complete answered orders, send due parked events. Never raises."""
        statuses = self._poster.send_due()
        orders = self._complete_orders()
        sent = expired = 0
        for data in self._due():
            try:
                went = self._send_again(data)
            except Transient as error:
                _log.warning("a parked event waits for the next tick", reason=str(error))
                continue
            sent += went is Outcome.RETRYING
            expired += went is Outcome.EXPIRED
        return Ticked(statuses, sent, expired, orders)

    def _due(self) -> list[dict[str, Any]]:
        parked = self._store.client.collection("parked")
        due = parked.where(filter=FieldFilter("next_try", "<=", datetime.now(UTC)))
        try:
            return self._store.find(due.order_by("next_try").limit(PER_TICK))
        except Transient as error:
            _log.warning("parked events cannot be read", reason=str(error))
            return []

    def _send_again(self, data: Mapping[str, Any]) -> Outcome | None:
        """One parked event: done meanwhile, sent again, or expired."""
        name = f"{data['stage']}.{data['delivery']}"
        token = uuid.uuid4().hex
        held = self._store.transact(lambda tx: self._hold(tx, name, token))
        if held is None:
            return None
        tries = held["tries"] + 1
        raw = RawEventMessage(
            body=held["body"].encode(),
            event_id=held["event_id"],
            received_at=held["received_at"],
            trace=from_attributes({"trace_id": held["trace_id"], "request_id": held["request_id"]}),
            handler=held["handler"] or held["only"],
            run=held["run"],
            rung=tries,
        )
        self._publisher().publish(self._topic, *raw.to_pubsub())
        posts = self._store.transact(lambda tx: self._advance(tx, name, token, tries))
        for post in posts or ():
            self._poster.send(post)
        return Outcome.RETRYING if posts is None else Outcome.EXPIRED

    def _hold(self, tx: Tx, name: str, token: str) -> dict[str, Any] | None:
        """Take a parked event to send it; None if another tick has it, or it needs no try."""
        at = self._store.parked(name)
        data = tx.read([at])[at.path]
        if data is None or data["next_try"] is None or data["next_try"] > tx.now:
            return None
        if data.get("held_until") and data["held_until"] > tx.now:
            return None
        about = self._about(data["stage"], data["delivery"], data["event_id"])
        now_is = tx.read([about])[about.path] or {}
        if _done(data["stage"], now_is):
            tx.merge(at, {"next_try": None, "done_at": tx.now})
            return None
        tx.merge(at, {"held": token, "held_until": tx.after(seconds=SEND_SECONDS)})
        return data

    def _advance(self, tx: Tx, name: str, token: str, tries: int) -> tuple[outbox.Post, ...] | None:
        """Write the next try down; at the ladder's end the event expires (its posts)."""
        at = self._store.parked(name)
        data = tx.read([at])[at.path] or {}
        if data.get("held") != token:
            return None
        next_try = self._ladder.next(data["parked_at"], tries, tx.now)
        tx.merge(at, {"tries": tries, "next_try": next_try, "held": None, "held_until": None})
        about = self._about(data["stage"], data["delivery"], data["event_id"])
        if next_try is not None:
            tx.merge(about, {"next_try": next_try})
            return None
        return self._expire(tx, data)

    def _expire(self, tx: Tx, data: Mapping[str, Any]) -> tuple[outbox.Post, ...]:
        stage = data["stage"]
        names = [stage] if stage != ENRICHMENT else list(self._handlers)
        about = self._about(stage, data["delivery"], data["event_id"])
        now_is = tx.read([about])[about.path] or {}
        reason = f"not delivered in {self._ladder.days:g} days: {data['reason']}"
        word = "state" if stage == ENRICHMENT else "outcome"
        expired = {"next_try": None, "errors": [reason], "finished_at": tx.now}
        tx.merge(about, {word: Outcome.EXPIRED.value, **expired})
        _log.error("expired: all tries used", stage=stage)
        posts = []
        i_account, t = now_is.get("i_account"), SnapshotTime(now_is.get("t") or "")
        for handler in names:
            group = self._handlers[handler].group if handler in self._handlers else None
            if i_account is None or group is None:
                continue
            status = self._store.status(i_account, group)
            found = tx.read([status])
            post = note_status(self._store, tx, found, i_account, group, t, Outcome.EXPIRED, reason)
            posts += [post] if post else []
        return tuple(posts)

    def _complete_orders(self) -> int:
        """Finish orders whose answer was taken in before a crash."""
        done = 0
        orders = Orders(self._store)
        for name, handler in self._handlers.items():
            if handler.kind != "asynchronous":
                continue
            try:
                for order in orders.unsettled(name):
                    if order.get("answer"):
                        self._answers.finish(name, order["reference"])
                        done += 1
            except Transient as error:
                _log.warning("orders wait for the next tick", handler=name, reason=str(error))
        return done

    def _stage(self, push: PushMessage) -> str:
        source = push.attributes.get(SOURCE, "").rpartition("/")[2]
        stage = source.removeprefix(self._prefix)
        if stage != ENRICHMENT and stage not in self._handlers:
            raise MalformedMessage(f"a dead letter comes from {source or 'nowhere'}")
        return stage

    def _about(self, stage: str, delivery: str, event_id: str) -> Any:
        if stage == ENRICHMENT:
            return self._store.event(event_id)
        return self._store.delivery(stage, delivery)


def _done(stage: str, now_is: Mapping[str, Any]) -> bool:
    if stage == ENRICHMENT:
        return now_is.get("state") in ("enriched", "unhandled", Outcome.EXPIRED.value)
    outcome = now_is.get("outcome")
    return outcome is not None and (Outcome(outcome).final or outcome == Outcome.ACCEPTED.value)


def _body(push: PushMessage) -> str:
    """The event as ESPF sent it, out of a raw or an enriched message."""
    try:
        document = json.loads(push.data)
    except ValueError as error:
        raise MalformedMessage("a dead letter's data is not JSON") from error
    event = document.get("data", document) if isinstance(document, dict) else None
    if not isinstance(event, dict) or "event_type" not in event:
        raise MalformedMessage("a dead letter holds no event")
    return json.dumps(event)
