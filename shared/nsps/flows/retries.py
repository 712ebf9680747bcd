"""The flow of retries: dead letters are parked, sent again for 30 days, and at last expired.

A parked event goes back through enrichment, for its one handler, so that it never writes what
PortaBilling no longer says. It is sent before its next try is written down: cut off between, it is
sent twice, which the ledger bears; never forgotten. After its last try it has an hour before it
expires.
"""

from __future__ import annotations

import json
import math
import random
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from google.cloud.firestore import FieldFilter

from nsps.cloud.messages import (
    ENRICHMENT,
    MalformedMessage,
    PushMessage,
)
from nsps.cloud.store import HISTORY_DAYS, Store, Tx
from nsps.delivery.history import kept_event, opening, time_of_receipt
from nsps.delivery.resend import Resend
from nsps.delivery.switch import State, Switch
from nsps.delivery.timeline import about_parked, last_reason, settled
from nsps.domain.event import (
    EspfEvent,
    InvalidWebhook,
    Owner,
    SnapshotTime,
    UnreadableOwner,
    delivery_id,
    owner_of,
    parse_webhook,
)
from nsps.domain.outcome import Outcome, Transient
from nsps.domain.retry import LAST_TRY_SECONDS, LONG_RETRIES, LongRetries
from nsps.domain.routing import wants
from nsps.espf import outbox
from nsps.espf.poster import Poster, note_status
from nsps.flows.deadlines import Deadlines
from nsps.flows.maintenance import Maintenance
from nsps.flows.schedules import Schedules
from nsps.runtime import log
from nsps.runtime.settings import HandlerSummary
from nsps.runtime.trace import from_attributes

T = TypeVar("T")

_log = log.get(__name__)

SOURCE = "CloudPubSubDeadLetterSourceSubscription"
SEND_SECONDS = 60.0
RATE = 5.0
"""Parked events a second, where no max_rate says what the system bears: an outage is no flood."""
TICK_SECONDS = 40.0
"""How long a tick sends; what is left waits for the next."""
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one tick did. ``off``: handlers that are paused or whose system is down, and why."""

    statuses: int
    sent: int
    expired: int
    orders: int
    off: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a tick does besides sending parked events."""

    poster: Poster
    maintenance: Maintenance
    deadlines: Deadlines
    schedules: Schedules


class Retries:
    """Parks and sends again; one per instance, safe to share between threads and instances.

    ``clock``: monotonic, in seconds.
    """

    def __init__(
        self,
        deployment: str,
        handlers: Sequence[HandlerSummary],
        store: Store,
        resend: Resend,
        upkeep: Upkeep,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._prefix = f"{deployment}-"
        self._handlers = {handler.name: handler for handler in handlers}
        self._store, self._upkeep, self._poster = store, upkeep, upkeep.poster
        self._resend = resend
        self._clock, self._sleep = clock, sleep

    def park(self, push: PushMessage) -> None:
        """Keep a dead letter in Firestore with its next try.

        One that cannot be read is kept with its bytes, and is sent again as it is: a later release
        may be able to read it. Raises Transient, MalformedMessage (it is none of ours).
        """
        stage = self._stage(push)
        event_id = push.attributes.get("event_id") or f"message-{push.message_id}"
        run = push.attributes.get("run", "")
        run = run if run.isascii() and run.isdigit() else ""
        delivery = delivery_id(event_id, int(run or 0))
        event, unreadable = self._event(push, event_id)
        kept = {
            "stage": stage,
            "handler": None if stage == ENRICHMENT else stage,
            "only": push.attributes.get("handler"),
            "event_id": event_id,
            "run": int(run) if run else None,
            "delivery": delivery,
            "body": json.dumps(event.body()) if event else None,
            "letter": zlib.compress(push.data) if unreadable else None,
            "unreadable": unreadable,
            "handlers": self._concerned(stage, event),
            "i_account": _i_account(push, event),
            "t": push.attributes.get("t", ""),
            "received_at": push.attributes.get("received_at") or push.publish_time,
            "trace_id": push.attributes.get("trace_id", ""),
            "request_id": push.attributes.get("request_id", ""),
        }
        opened = partial(self._opened, push, event_id, event)
        self._store.transact(lambda tx: self._park(tx, stage, delivery, kept, opened))
        _log.warning("parked: all attempts used", stage=stage, reason=unreadable)

    def _event(self, push: PushMessage, event_id: str) -> tuple[EspfEvent | None, str | None]:
        """The event of a dead letter, and why it could not be read there: then it is the history's,
        or None where that has not got it either. Raises StoreUnavailable."""
        try:
            return _read_event(push.data), None
        except InvalidWebhook as error:
            data = self._store.read(self._store.event(event_id))
            return kept_event(data or {}), f"the message cannot be read: {error}"

    def _opened(
        self, push: PushMessage, event_id: str, event: EspfEvent | None, now: datetime
    ) -> dict[str, Any]:
        """The event's entry, where enrichment came to nothing so early that it made none."""
        return opening(
            event_id,
            event,
            self._concerned(ENRICHMENT, event),
            push.attributes.get("received_at") or push.publish_time,
            from_attributes(push.attributes),
            now,
        )

    def _park(
        self,
        tx: Tx,
        stage: str,
        delivery: str,
        kept: Mapping[str, Any],
        opened: Callable[[datetime], dict[str, Any]],
    ) -> None:
        at = self._store.parked(f"{stage}.{delivery}")
        about, word = about_parked(self._store, kept)
        found = tx.read([at, about])
        if found[at.path] and (found[at.path] or {}).get("next_try"):
            return  # parked already: the same dead letter twice
        data = found[about.path] or {}
        outcome = data.get("outcome")
        if word == "outcome" and outcome and Outcome(outcome).final:
            return
        long = self._long_retries(stage)
        next_try, last = _next(long, tx.now, 0, tx.now)
        reason = last_reason(data, kept["unreadable"] or "all attempts were used")
        tx.merge(
            at,
            {
                **kept,
                "parked_at": tx.now,
                "tries": 0,
                "next_try": next_try,
                "last": last,
                "reason": reason,
                "expire_at": tx.after(days=long.days + HISTORY_DAYS),
            },
        )
        parked = {"next_try": next_try, "expire_at": tx.after(days=HISTORY_DAYS + 30)}
        if word == "state" and "opened_at" not in data:
            parked = opened(tx.now) | parked
        tx.merge(about, {**parked, word: Outcome.PARKED.value})

    def tick(self) -> Ticked:
        """Switches, statuses, answered and late orders, parked events. Never raises.

        Each handler's part is done beside the others': none waits for another. What is due is
        decided by Firestore's clock, which also set the times: an instance's own may be wrong.
        """
        with ThreadPoolExecutor(1) as beside:
            beside.submit(_guarded, "the schedules", self._upkeep.schedules.tick)
            return self._ticked()

    def _ticked(self) -> Ticked:
        ends = self._clock() + TICK_SECONDS
        kept = _guarded("the switches", self._upkeep.maintenance.tick)
        statuses = _guarded("the statuses", self._poster.send_due) or 0
        if kept is None:  # what is paused cannot be known: the next tick sends
            return Ticked(statuses, 0, 0, 0, {})
        switches, now = kept
        _guarded("the tick's own time", lambda: self._store.merge(self._store.tick(), {"at": now}))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            orders = pool.map(lambda name: self._orders(name, switches, now, ends), self._handlers)
            parked = pool.map(lambda stage: self._parked(stage, now, ends), self._stages(switches))
            went = [outcome for outcomes in parked for outcome in outcomes]
            return Ticked(
                statuses=statuses,
                sent=went.count(Outcome.RETRYING),
                expired=went.count(Outcome.EXPIRED),
                orders=sum(orders),
                off={name: each.why() for name, each in switches.items() if each.off},
            )

    def _stages(self, switches: Mapping[str, Switch]) -> list[str]:
        """Whose parked events may be sent: a paused handler's wait and use up no try."""
        free = Switch()
        awake = [
            name
            for name in self._handlers
            if switches.get(name, free).breaker.state is State.CLOSED
            and switches.get(name, free).pause is None
        ]
        return [ENRICHMENT, *awake]

    def _orders(self, name: str, switches: Mapping[str, Switch], now: datetime, ends: float) -> int:
        """One handler's orders, and messages without a receipt, that are due."""
        if not self._handlers[name].answers_later:
            return 0
        may_ask = not switches.get(name, Switch()).off

        def deal() -> int:
            return self._upkeep.deadlines.tick(
                name, now, may_ask=may_ask, goes_on=lambda: self._clock() < ends
            )

        return _guarded(f"the orders of {name}", deal) or 0

    def _parked(self, stage: str, now: datetime, ends: float) -> list[Outcome]:
        """One stage's due events, at the rate that its system bears."""
        handler = self._handlers.get(stage)
        rate = (handler.max_rate if handler else None) or RATE
        went: list[Outcome] = []
        for number, data in enumerate(self._due(stage, now, math.ceil(rate * TICK_SECONDS))):
            if number:
                self._sleep(1 / rate)
            if self._clock() >= ends:
                break
            outcome = _guarded("a parked event", partial(self._send_again, data))
            went += [outcome] if outcome else []
        return went

    def _due(self, stage: str, now: datetime, limit: int) -> list[dict[str, Any]]:
        parked = self._store.client.collection("parked")
        mine = parked.where(filter=FieldFilter("stage", "==", stage))
        due = mine.where(filter=FieldFilter("next_try", "<=", now))
        find = partial(self._store.find, due.order_by("next_try").limit(limit))
        return _guarded(f"the parked events of {stage}", find) or []

    def _send_again(self, data: Mapping[str, Any]) -> Outcome | None:
        """One parked event: done meanwhile, sent again, or expired."""
        name = f"{data['stage']}.{data['delivery']}"
        token = uuid.uuid4().hex
        held = self._store.transact(lambda tx: self._hold(tx, name, token))
        if held is None:
            return None
        if held.get("last"):
            return self._end(name, token, held)
        tries = held["tries"] + 1
        body = held["body"].encode() if held["body"] else zlib.decompress(held["letter"])
        handler = held["handler"] or held["only"]
        self._resend.send(held["event_id"], body, handler, held, run=held["run"], retry_round=tries)
        self._store.transact(lambda tx: self._advance(tx, name, token, tries))
        return Outcome.RETRYING

    def _end(self, name: str, token: str, held: Mapping[str, Any]) -> Outcome | None:
        """The end of the long retries: the event expires, and ESPF gets FAILED."""
        received = self._received(held)
        ended = self._store.transact(lambda tx: self._expire(tx, name, token, received))
        if ended is None:
            return None
        stage, event_id, posts = ended
        _log.error("expired: all tries used", stage=stage, event_id=event_id)
        for post in posts:
            self._poster.send(post)
        return Outcome.EXPIRED

    def _hold(self, tx: Tx, name: str, token: str) -> dict[str, Any] | None:
        """Take a parked event to send it; None if another tick has it, or it needs no try."""
        at = self._store.parked(name)
        data = tx.read([at])[at.path]
        if data is None or data["next_try"] is None or data["next_try"] > tx.now:
            return None
        if data.get("held_until") and data["held_until"] > tx.now:
            return None
        about, word = about_parked(self._store, data)
        now_is = tx.read([about])[about.path] or {}
        if settled(word, now_is):
            tx.merge(at, {"next_try": None, "done_at": tx.now})
            return None
        tx.merge(at, {"held": token, "held_until": tx.after(seconds=SEND_SECONDS)})
        return data

    def _advance(self, tx: Tx, name: str, token: str, tries: int) -> None:
        """Write the next try down; after the last one, when the event expires."""
        at = self._store.parked(name)
        data = tx.read([at])[at.path] or {}
        if data.get("held") != token:
            return
        long = self._long_retries(data["stage"])
        next_try, last = _next(long, data["parked_at"], tries, tx.now)
        advanced = {"tries": tries, "next_try": next_try, "last": last}
        tx.merge(at, advanced | {"held": None, "held_until": None})
        about, _ = about_parked(self._store, data)
        tx.merge(about, {"next_try": next_try})

    def _received(self, held: Mapping[str, Any]) -> SnapshotTime:
        """When a parked event was received: an event that was never read has no snapshot's time.

        On Firestore's clock, like the snapshots; when it was parked, if it left no history.
        """
        entry = self._store.call(self._store.event(held["event_id"]).get)
        return time_of_receipt(entry.create_time or held["parked_at"], held["event_id"])

    def _expire(
        self, tx: Tx, name: str, token: str, received: SnapshotTime
    ) -> tuple[str, str, tuple[outbox.Post, ...]] | None:
        """Stage, event_id and the status for ESPF; None if another tick has it or it is done."""
        at = self._store.parked(name)
        data = tx.read([at])[at.path] or {}
        if data.get("held") != token:
            return None
        stage = data["stage"]
        about, word = about_parked(self._store, data)
        now_is = tx.read([about])[about.path] or {}
        tx.merge(at, {"next_try": None, "held": None, "held_until": None, "done_at": tx.now})
        if settled(word, now_is):
            return None
        last = last_reason(now_is, data["reason"])
        reason = f"not delivered in {self._long_retries(stage).days:g} days: {last}"
        expired = {"next_try": None, "errors": [reason], "finished_at": tx.now}
        about_it = {**data, **now_is}
        t = SnapshotTime(about_it.get("t") or received)
        posts = self._failed(tx, about_it, t, reason)
        tx.merge(about, {word: Outcome.EXPIRED.value, **expired})
        return stage, data["event_id"], posts

    def _failed(
        self, tx: Tx, about: Mapping[str, Any], t: SnapshotTime, reason: str
    ) -> tuple[outbox.Post, ...]:
        """Note FAILED for the groups that the event concerns.

        ``about``: what the message said when it was parked, and what the history says since. A
        function that never started has left no history, and PortaBilling is told all the same.
        """
        i_account = about.get("i_account")
        if i_account is None:
            return ()
        names = about.get("handlers", [])
        groups = {self._handlers[name].group for name in names if name in self._handlers}
        posts: list[outbox.Post] = []
        for group in sorted(filter(None, groups)):
            found = tx.read([self._store.status(i_account, group)])
            post = note_status(self._store, tx, found, i_account, group, t, Outcome.EXPIRED, reason)
            posts += [post] if post else []
        return tuple(posts)

    def _concerned(self, stage: str, event: EspfEvent | None) -> list[str]:
        """The handlers for which the event has failed at this stage."""
        if stage != ENRICHMENT:
            return [stage]
        if event is None:
            return []
        summaries = self._handlers.values()
        return [each.name for each in summaries if wants(each.events, event.event_type)]

    def _long_retries(self, stage: str) -> LongRetries:
        handler = self._handlers.get(stage)
        return handler.retries.schedule.long if handler else LONG_RETRIES

    def _stage(self, push: PushMessage) -> str:
        source = push.attributes.get(SOURCE, "").rpartition("/")[2]
        stage = source.removeprefix(self._prefix)
        if stage != ENRICHMENT and stage not in self._handlers:
            raise MalformedMessage(f"a dead letter comes from {source or 'nowhere'}")
        return stage


def _next(
    long: LongRetries, parked_at: datetime, tries: int, now: datetime
) -> tuple[datetime, bool]:
    """The next try; after the last one, when the event expires, and True."""
    following = long.next(parked_at, tries, now, random.random())  # noqa: S311
    if following is not None:
        return following, False
    expires = long.ends(parked_at)
    return (max(expires, now + timedelta(seconds=LAST_TRY_SECONDS)) if tries else expires), True


def _guarded(what: str, do: Callable[[], T]) -> T | None:
    """The result, or None: what cannot be done now is left to the next tick."""
    try:
        return do()
    except Transient as error:
        _log.warning(f"{what} wait for the next tick", reason=str(error))
    except Exception as error:
        _log.error(f"{what} wait for the next tick: an unexpected error", error=error)
    return None


def _read_event(data: bytes) -> EspfEvent:
    """The event as ESPF sent it, out of a raw or an enriched message. Raises InvalidWebhook."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidWebhook("it is not JSON") from error
    sent = document.get("data", document) if isinstance(document, dict) else None
    return parse_webhook(json.dumps(sent).encode())


def _i_account(push: PushMessage, event: EspfEvent | None) -> int | None:
    """The account that the event turned out to be about, or that it names."""
    owner = push.attributes.get("owner", "")
    if ":" in owner.strip(":"):
        return Owner.parse(owner).i_account
    try:
        return owner_of(event, "-").i_account if event else None
    except UnreadableOwner:
        return None
