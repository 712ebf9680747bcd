"""Topics, subscriptions, and the way of a message from publish to acknowledgement.

Runs in one asyncio loop and belongs to it. Nothing is delivered, and no publish is answered,
before it is on disk. Delivery is driven by events: a publish, an answer, a due time.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from nsps_local.grpc_server import Refused
from nsps_local.pubsub import filters, push, resources
from nsps_local.pubsub.backlog import Backlog, Failure, Lease
from nsps_local.pubsub.clock import Clock
from nsps_local.pubsub.faults import Faults
from nsps_local.pubsub.http_client import PushClient
from nsps_local.pubsub.identities import Identities
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.pubsub.resources import DELETED_TOPIC, MessagePb, SubscriptionPb, TopicPb
from nsps_local.pubsub.store import Store

log = logging.getLogger(__name__)

_LAZY_WRITE = 0.02  # seconds that an acknowledgement or a failure may wait for company
_HOUSEKEEPING = 60.0
_FULL_SECONDS = 2.0  # without an answer, before it is said why messages wait
DEAD_LETTER = "CloudPubSubDeadLetterSource"


class Consumer(Protocol):
    """Somebody who pulls."""

    deadline: float | None

    def room(self) -> int:
        """How many messages it takes now."""

    def deliver(self, leases: list[Lease], messages: list[Any]) -> None: ...

    def look_again(self) -> None:
        """The subscription has changed, or is gone."""


@dataclass(slots=True, eq=False)
class Topic:
    pb: Any
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    published: int = 0


class Subscription:
    """A subscription at work: its configuration, messages, and those who take them."""

    def __init__(self, sid: int, pb: Any, pusher: push.Pusher, first_token: int) -> None:
        self.sid = sid
        self.pusher = pusher
        self.backlog = Backlog(resources.policy_of(pb), first_token)
        self.consumers: list[Consumer] = []
        self.counts: Counter[str] = Counter()
        self.timer: asyncio.TimerHandle | None = None
        self.timer_due = 0.0
        self.last_active = 0.0
        self.configure(pb)

    def configure(self, pb: Any) -> None:
        self.pb = pb
        self.name: str = pb.name
        self.matches = filters.parse(pb.filter)
        self.backlog.policy = resources.policy_of(pb)
        self.expiry = resources.expiry_of(pb)

    @property
    def pushes(self) -> bool:
        return bool(self.pb.push_config.push_endpoint) and not self.pb.detached


@dataclass(slots=True)
class _Publication:
    """Messages on their way to the disk. `failed`: None if nobody waits, then it is retried."""

    rows: list[tuple[int, bytes]]
    targets: list[tuple[int, Subscription]]
    answer: asyncio.Future[None] | None


class Broker:
    """The whole of it; see `server` for the gRPC surface."""

    def __init__(
        self, store: Store, tokens: TokenIssuer, push_window: int, identities: Identities
    ) -> None:
        self.clock = Clock(store.meta("clock_offset"))
        self.faults = Faults()
        self.topics: dict[str, Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._store = store
        self._tokens = tokens
        self._push_window = push_window
        self._identities = identities
        self._client = PushClient()
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._pending: list[_Publication] = []
        self._flush_handle: asyncio.Handle | None = None
        self._flush_soon = False
        self._flushed: list[asyncio.Future[None]] = []
        # Acknowledgement ids of an earlier run must never fit a lease of this one.
        self._first_token = time.time_ns() // 1000
        self._last_id = store.last_id()
        self._load()
        self._housekeeper = self._loop.call_later(_HOUSEKEEPING, self._housekeeping)

    def dismiss(self) -> None:
        """From now on, whoever waits for messages or asks for a subscription is sent away."""
        self._stopping = True
        for subscription in self.subscriptions.values():
            for consumer in subscription.consumers:
                consumer.look_again()

    def close(self) -> None:
        """Stop delivering, and leave everything on disk."""
        self._housekeeper.cancel()
        for subscription in self.subscriptions.values():
            self._cancel_timer(subscription)
            subscription.pusher.stop()
        self._client.close()
        self._flush()
        self._store.close()

    # -- topics

    def create_topic(self, pb: Any) -> Any:
        topic = resources.checked_topic(pb)
        if topic.name in self.topics:
            raise _exists(topic.name)
        self._store.put_topic(topic.name, topic.SerializeToString())
        self.topics[topic.name] = Topic(topic)
        return topic

    def topic(self, name: str) -> Topic:
        topic = self.topics.get(name)
        if topic is None:
            resources.check_name(name, "topics")
            raise resources.not_found(name)
        return topic

    def update_topic(self, request: Any) -> Any:
        topic = self.topic(request.topic.name)
        topic.pb = resources.updated_topic(topic.pb, request)
        self._store.put_topic(topic.pb.name, topic.pb.SerializeToString())
        return topic.pb

    def delete_topic(self, name: str) -> None:
        """The subscriptions stay, with what they have."""
        topic = self.topic(name)
        for subscription in topic.subscriptions.values():
            subscription.pb.topic = DELETED_TOPIC
            self._save(subscription)
        self._store.drop_topic(name)
        del self.topics[name]

    # -- subscriptions

    def create_subscription(self, pb: Any) -> Any:
        resources.check_name(pb.name, "subscriptions")
        if pb.name in self.subscriptions:
            raise _exists(pb.name)
        topic = self.topic(pb.topic)
        checked = resources.checked_subscription(pb, self.topics, self._identities)
        sid = self._store.add_subscription(checked.name, checked.SerializeToString())
        subscription = self._admit(sid, checked)
        topic.subscriptions[checked.name] = subscription
        return checked

    def subscription(self, name: str) -> Subscription:
        if self._stopping:
            raise _unavailable("The broker is stopping.")
        subscription = self.subscriptions.get(name)
        if subscription is None:
            resources.check_name(name, "subscriptions")
            raise resources.not_found(name)
        subscription.last_active = self.clock.now()
        return subscription

    def update_subscription(self, request: Any) -> Any:
        subscription = self.subscription(request.subscription.name)
        changed = resources.updated_subscription(
            subscription.pb, request, self.topics, self._identities
        )
        self._reconfigure(subscription, changed)
        return subscription.pb

    def modify_push_config(self, name: str, config: Any) -> None:
        """An empty endpoint makes it a pull subscription: messages stay, attempts are not counted.

        Pushes under way are finished, and count.
        """
        subscription = self.subscription(name)
        resources.check_push(config, self._identities)
        changed = SubscriptionPb()
        changed.CopyFrom(subscription.pb)
        changed.push_config.CopyFrom(config)
        self._reconfigure(subscription, changed)

    def detach(self, name: str) -> None:
        """No more messages from the topic, and none kept."""
        subscription = self.subscription(name)
        changed = SubscriptionPb()
        changed.CopyFrom(subscription.pb)
        changed.detached = True
        topic = self.topics.get(changed.topic)
        if topic:
            topic.subscriptions.pop(name, None)
        self._reconfigure(subscription, changed)
        self._purge(subscription, None)

    def delete_subscription(self, name: str) -> None:
        subscription = self.subscription(name)
        del self.subscriptions[name]
        topic = self.topics.get(subscription.pb.topic)
        if topic:
            topic.subscriptions.pop(name, None)
        subscription.pusher.stop()
        self._cancel_timer(subscription)
        for consumer in subscription.consumers:
            consumer.look_again()
        self._flush()
        self._store.drop_subscription(subscription.sid)

    def seek(self, name: str, when: float) -> None:
        """Acknowledge what was published before `when` (Unix seconds); what was published since
        and is kept (retain_acked_messages) is delivered anew."""
        subscription = self.subscription(name)
        bound = int(when * 1_000_000)
        self._purge(subscription, bound)
        for mid in self._store.revive(subscription.sid, bound):
            subscription.backlog.add(mid)
        self.pump(subscription)

    # -- publishing

    async def publish(self, name: str, messages: Any) -> list[str]:
        """Keep the messages for every subscription that wants them; their ids, once on disk.

        Raises Refused: no such topic, UNAVAILABLE by a fault or a disk that cannot be written.
        """
        topic = self.topic(name)
        if self.faults.strike(name, "publish_unavailable"):
            raise _unavailable("The service is currently unavailable (fault publish_unavailable).")
        answer = self._loop.create_future()
        ids = self._enqueue(topic, messages, answer)
        await answer
        if self.faults.strike(name, "publish_answer_lost"):
            raise _unavailable("The connection was lost (fault publish_answer_lost).")
        return ids

    def _enqueue(
        self, topic: Topic, messages: Any, answer: asyncio.Future[None] | None
    ) -> list[str]:
        publication = _Publication([], [], answer)
        ids = []
        for message in messages:
            mid = self._next_id()
            message.message_id = str(mid)
            message.publish_time.FromMicroseconds(mid)
            wanted = [s for s in topic.subscriptions.values() if s.matches(message.attributes)]
            if wanted:  # what no subscription wants is published to nobody
                publication.rows.append((mid, message.SerializeToString()))
                publication.targets += [(mid, s) for s in wanted]
            ids.append(message.message_id)
        topic.published += len(ids)
        self._pending.append(publication)
        self._flush_later(now=True)
        return ids

    def _next_id(self) -> int:
        """Microseconds of the broker's time: rising, and telling when it was published."""
        self._last_id = max(self._last_id + 1, int(self.clock.now() * 1_000_000))
        return self._last_id

    # -- settling deliveries

    def ack(self, name: str, ack_ids: list[tuple[int, int]]) -> None:
        subscription = self.subscription(name)
        for mid, token in ack_ids:
            self._ack(subscription, mid, token)
        self.pump(subscription)

    def modify_deadline(
        self, name: str, ack_ids: list[tuple[int, int]], seconds: list[int]
    ) -> None:
        """New deadlines, in seconds from now; 0 refuses the delivery."""
        subscription = self.subscription(name)
        now = self.clock.now()
        for (mid, token), wait in zip(ack_ids, seconds, strict=True):
            if wait:
                subscription.backlog.extend(mid, token, now + wait)
            else:
                self._nack(subscription, mid, token)
        self.pump(subscription)

    async def flushed(self) -> None:
        """Wait until everything so far is on disk."""
        done = self._loop.create_future()
        self._flushed.append(done)
        self._flush_later(now=True)
        await done

    def _ack(self, subscription: Subscription, mid: int, token: int) -> None:
        if self.faults.strike(subscription.name, "lose_acks"):
            subscription.backlog.release(mid, token)
            return
        late = subscription.backlog.is_late(mid, token, self.clock.now())
        if late and self.faults.strike(subscription.name, "lose_late_acks"):
            subscription.counts["late_acks_lost"] += 1
            return
        if subscription.backlog.ack(mid, token):
            subscription.counts["acked"] += 1
            subscription.last_active = self.clock.now()
            self._store.acked(subscription.sid, mid, subscription.pb.retain_acked_messages)
            self._flush_later()

    def _nack(self, subscription: Subscription, mid: int, token: int) -> None:
        failure = subscription.backlog.nack(mid, token, self.clock.now())
        if failure:
            subscription.counts["nacked"] += 1
            self._failed(subscription, failure)

    def _failed(self, subscription: Subscription, failure: Failure) -> None:
        if failure.dead and self._forward(subscription, failure):
            return
        if failure.dead:  # nowhere to forward to: it is kept, and tried again
            subscription.backlog.restore(failure.mid, failure.failures, failure.due)
        self._store.failed(subscription.sid, failure.mid, failure.failures, failure.due)
        self._flush_later()

    def _forward(self, subscription: Subscription, failure: Failure) -> bool:
        """Move a message whose attempts are used up to the dead letter topic."""
        topic = self.topics.get(subscription.pb.dead_letter_policy.dead_letter_topic)
        body = self._store.body(failure.mid)
        if topic is None or body is None:
            return body is None
        message = MessagePb.FromString(body)
        _, project, _, short = subscription.name.split("/")
        attributes = message.attributes
        attributes[f"{DEAD_LETTER}DeliveryCount"] = str(failure.failures)
        attributes[f"{DEAD_LETTER}Subscription"] = short
        attributes[f"{DEAD_LETTER}SubscriptionProject"] = project
        published = push.timestamp(message).replace("Z", "+00:00")
        attributes[f"{DEAD_LETTER}TopicPublishTime"] = published
        self._enqueue(topic, [message], None)
        self._store.acked(subscription.sid, failure.mid, subscription.pb.retain_acked_messages)
        subscription.counts["dead_lettered"] += 1
        return True

    # -- delivering

    def join(self, subscription: Subscription, consumer: Consumer) -> None:
        subscription.consumers.append(consumer)
        self.pump(subscription)

    def leave(self, subscription: Subscription, consumer: Consumer) -> None:
        if consumer in subscription.consumers:
            subscription.consumers.remove(consumer)

    def pump(self, subscription: Subscription) -> None:
        """Deliver what can be delivered now, and come back when time has something to do."""
        now = self.clock.now()
        self._settle(subscription, now)
        if subscription.backlog.ready:
            if subscription.pushes:
                self._push(subscription, now)
            elif not subscription.pb.detached:
                self._serve(subscription, now)
        self._note_full(subscription, now)
        self._set_timer(subscription, now)

    def _note_full(self, subscription: Subscription, now: float) -> None:
        """Say why messages wait, if all that may be under way is, and nothing is answered."""
        pusher, backlog = subscription.pusher, subscription.backlog
        if not (subscription.pushes and backlog.ready and pusher.room() == 0):
            pusher.full_since = None
        elif pusher.full_since is None:
            pusher.full_since = now
            self._loop.call_later(_FULL_SECONDS, self._say_full, subscription, now)

    def _say_full(self, subscription: Subscription, since: float) -> None:
        pusher, backlog = subscription.pusher, subscription.backlog
        if pusher.full_since != since:
            return
        log.warning(
            "%s: %d messages wait, for %d pushes are under way, as many as may be, and none has "
            "been answered for %g s: look at what its function waits for",
            subscription.name,
            len(backlog) - backlog.outstanding - backlog.waiting,
            pusher.in_flight,
            _FULL_SECONDS,
        )

    def _settle(self, subscription: Subscription, now: float) -> None:
        settled = subscription.backlog.settle(now)
        for failure in settled.failed:
            subscription.counts["expired"] += 1
            self._failed(subscription, failure)
        for mid in settled.dropped:
            subscription.counts["dropped"] += 1
            self._store.acked(subscription.sid, mid)
        if settled.dropped:
            self._flush_later()

    def _push(self, subscription: Subscription, now: float) -> None:
        pusher = subscription.pusher
        if now < pusher.backoff.until:
            return
        for lease in subscription.backlog.lease(now, pusher.room()):
            message = self._message(subscription, lease)
            if message is None:
                continue
            subscription.counts["pushes"] += 1
            if self.faults.strike(subscription.name, "push_drop_before"):
                self._nack(subscription, lease.mid, lease.token)
                continue
            request = push.request_for(
                subscription.pb, message, lease.attempt, self._tokens, self._identities
            )
            twice = self.faults.strike(subscription.name, "duplicate")
            pusher.start(lease, request, 2 if twice else 1)

    def _pushed(self, subscription: Subscription, lease: Lease, status: int | None) -> None:
        subscription.pusher.full_since = None
        backoff = subscription.pusher.backoff
        good = status in push.SUCCESS
        if good and self.faults.strike(subscription.name, "push_drop_after"):
            good = False
        if good:
            backoff.succeeded()
            self._ack(subscription, lease.mid, lease.token)
        else:
            subscription.counts[f"push_{status or 'broken'}"] += 1
            if not subscription.pb.HasField("retry_policy"):
                backoff.failed(self.clock.now())
            self._nack(subscription, lease.mid, lease.token)
        if subscription.name in self.subscriptions:
            self.pump(subscription)

    def _serve(self, subscription: Subscription, now: float) -> None:
        """Share out to those who pull, each in its turn."""
        for consumer in list(subscription.consumers):
            room = consumer.room()
            if room <= 0:
                continue
            leases = subscription.backlog.lease(now, room, consumer.deadline)
            pairs = [(lease, self._message(subscription, lease)) for lease in leases]
            found = [(lease, message) for lease, message in pairs if message is not None]
            if found:
                subscription.last_active = now
                subscription.consumers.remove(consumer)
                subscription.consumers.append(consumer)
                self._hand_over(subscription, consumer, found)

    def _hand_over(
        self, subscription: Subscription, consumer: Consumer, found: list[tuple[Lease, Any]]
    ) -> None:
        subscription.counts["pulled"] += len(found)
        name = subscription.name
        twice = [pair for pair in found if self.faults.strike(name, "duplicate")]
        both = found + twice
        consumer.deliver([lease for lease, _ in both], [message for _, message in both])

    def _message(self, subscription: Subscription, lease: Lease) -> Any | None:
        body = self._store.body(lease.mid)
        if body is None:  # cannot happen; if it does, do not deliver it for ever
            subscription.backlog.ack(lease.mid, lease.token)
            return None
        return MessagePb.FromString(body)

    # -- time

    def advance(self, seconds: float) -> float:
        """Move the clock; everything that has become due happens."""
        now = self.clock.advance(seconds)
        self._store.set_meta("clock_offset", self.clock.offset)
        self._expire_subscriptions()
        for subscription in list(self.subscriptions.values()):
            self._cancel_timer(subscription)
            self.pump(subscription)
        return now

    def _set_timer(self, subscription: Subscription, now: float) -> None:
        due = subscription.backlog.next_event()
        paused = subscription.pusher.backoff.until
        if subscription.pushes and paused > now and subscription.backlog.ready:
            due = min(due or paused, paused)
        if due is None or (subscription.timer and subscription.timer_due <= due):
            return  # an early call finds nothing to do and sets the next timer
        self._cancel_timer(subscription)
        subscription.timer_due = due
        wait = max(due - now, 0.0) + 0.0005
        subscription.timer = self._loop.call_later(wait, self._timer_rings, subscription)

    def _timer_rings(self, subscription: Subscription) -> None:
        subscription.timer = None
        self.pump(subscription)

    def _cancel_timer(self, subscription: Subscription) -> None:
        if subscription.timer:
            subscription.timer.cancel()
            subscription.timer = None

    def _housekeeping(self) -> None:
        self._expire_subscriptions()
        now = self.clock.now()
        for subscription in list(self.subscriptions.values()):
            if subscription.pb.retain_acked_messages:
                horizon = int((now - subscription.backlog.policy.retention) * 1_000_000)
                self._store.drop_acked(subscription.sid, horizon)
            self.pump(subscription)
        self._housekeeper = self._loop.call_later(_HOUSEKEEPING, self._housekeeping)

    def _expire_subscriptions(self) -> None:
        now = self.clock.now()
        for subscription in list(self.subscriptions.values()):
            expiry = subscription.expiry
            if expiry is not None and now - subscription.last_active > expiry:
                self.delete_subscription(subscription.name)

    # -- figures

    def metrics(self) -> dict[str, Any]:
        """{"clock", "topics": {name: {"published", "subscriptions"}}, "subscriptions": {name:
        {"topic", "mode", "backlog", "oldest_unacked_seconds", "outstanding", "waiting" (for the
        back-off), "window", "in_flight", and counted since the start: "attempts", "pushes",
        "pulled", "acked", "nacked", "expired" (overdue), "dead_lettered", "dropped" (retention),
        "push_<status>" and "push_broken" for the pushes that failed, "late_acks_lost"}}}."""
        now = self.clock.now()
        return {
            "clock": now,
            "topics": {
                name: {"published": topic.published, "subscriptions": len(topic.subscriptions)}
                for name, topic in self.topics.items()
            },
            "subscriptions": {
                name: _figures(subscription, now)
                for name, subscription in self.subscriptions.items()
            },
        }

    # -- the disk

    def _flush_later(self, now: bool = False) -> None:
        """Write with the next turn of the loop, or, if nobody waits for it, a little later."""
        if self._flush_handle and (self._flush_soon or not now):
            return
        if self._flush_handle:
            self._flush_handle.cancel()
        self._flush_soon = now
        loop = self._loop
        self._flush_handle = (
            loop.call_soon(self._flush) if now else loop.call_later(_LAZY_WRITE, self._flush)
        )

    def _flush(self) -> None:
        if self._flush_handle:
            self._flush_handle.cancel()
        self._flush_handle = None
        pending, self._pending = self._pending, []
        waiting, self._flushed = self._flushed, []
        self._forget_deleted(pending)
        try:
            self._store.commit(
                [row for publication in pending for row in publication.rows],
                [(m, s.sid) for publication in pending for m, s in publication.targets],
            )
        except sqlite3.Error as error:
            self._not_written(pending, waiting, error)
            return
        for done in waiting:
            _resolve(done, None)
        touched: dict[int, Subscription] = {}
        for publication in pending:
            for mid, body in publication.rows:
                self._store.remember(mid, body)
            for mid, subscription in publication.targets:
                subscription.backlog.add(mid, self._held_back(subscription))
                touched[subscription.sid] = subscription
            _resolve(publication.answer, None)
        for subscription in touched.values():
            self.pump(subscription)

    def _forget_deleted(self, pending: list[_Publication]) -> None:
        """A subscription may have been deleted between a publish and its writing."""
        live = {subscription.sid for subscription in self.subscriptions.values()}
        for publication in pending:
            if any(s.sid not in live for _, s in publication.targets):
                publication.targets = [(m, s) for m, s in publication.targets if s.sid in live]
                wanted = {mid for mid, _ in publication.targets}
                publication.rows = [row for row in publication.rows if row[0] in wanted]

    def _not_written(
        self,
        pending: list[_Publication],
        waiting: list[asyncio.Future[None]],
        error: sqlite3.Error,
    ) -> None:
        """Whoever waits is told; what nobody waits for (dead letters, acks) is tried again."""
        text = f"The server cannot write to its disk: {error}. Nothing was kept."
        if pending or waiting:
            log.error(text)
        refusal = _unavailable(text)
        for done in waiting:
            _resolve(done, refusal)
        for publication in pending:
            if publication.answer is None:
                self._pending.append(publication)
            else:
                _resolve(publication.answer, refusal)
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_later(1.0, self._flush)

    def _held_back(self, subscription: Subscription) -> float | None:
        name = subscription.name
        faults = (self.faults.strike(name, "delay"), self.faults.strike(name, "reorder"))
        seconds = sum(fault.seconds for fault in faults if fault)
        return self.clock.now() + seconds if seconds else None

    def _load(self) -> None:
        for body in self._store.topics():
            topic = TopicPb.FromString(body)
            self.topics[topic.name] = Topic(topic)
        by_sid: dict[int, Subscription] = {}
        for sid, body in self._store.subscriptions():
            subscription = by_sid[sid] = self._admit(sid, SubscriptionPb.FromString(body))
            owner = self.topics.get(subscription.pb.topic)
            if owner and not subscription.pb.detached:
                owner.subscriptions[subscription.name] = subscription
        for mid, sid, failures, due in self._store.deliveries():
            if failures:
                by_sid[sid].backlog.restore(mid, failures, due)
            else:
                by_sid[sid].backlog.add(mid)
        for subscription in by_sid.values():
            self._loop.call_soon(self.pump, subscription)

    def _admit(self, sid: int, pb: Any) -> Subscription:
        def done(lease: Lease, status: int | None) -> None:
            self._pushed(subscription, lease, status)

        pusher = push.Pusher(self._client, push.Window(self._push_window), done)
        subscription = Subscription(sid, pb, pusher, self._first_token)
        subscription.last_active = self.clock.now()
        self.subscriptions[pb.name] = subscription
        self._warn_of_refusals(subscription)
        return subscription

    def _warn_of_refusals(self, subscription: Subscription) -> None:
        endpoint = subscription.pb.push_config.push_endpoint
        account = push.account_of(subscription.pb)
        if endpoint and not self._identities.admits(account, endpoint):
            log.warning(
                "%s: every push is answered %d, because %s may not call %s: grant it the role "
                "roles/run.invoker there",
                subscription.name,
                push.FORBIDDEN,
                account or "who has no account",
                endpoint,
            )

    def _reconfigure(self, subscription: Subscription, pb: Any) -> None:
        subscription.configure(pb)
        self._save(subscription)
        self._warn_of_refusals(subscription)
        for consumer in subscription.consumers:
            consumer.look_again()
        self.pump(subscription)

    def _save(self, subscription: Subscription) -> None:
        self._store.put_subscription(subscription.sid, subscription.pb.SerializeToString())

    def _purge(self, subscription: Subscription, before: int | None) -> None:
        self._flush()
        subscription.backlog.forget_before((1 << 62) if before is None else before)
        keep = subscription.pb.retain_acked_messages and before is not None
        self._store.clear(subscription.sid, before, keep)


def _figures(subscription: Subscription, now: float) -> dict[str, Any]:
    backlog, counts = subscription.backlog, subscription.counts
    oldest = backlog.oldest()
    figures: dict[str, Any] = {
        "topic": subscription.pb.topic,
        "mode": "push" if subscription.pushes else "pull",
        "backlog": len(backlog),
        "oldest_unacked_seconds": max(now - oldest / 1e6, 0.0) if oldest else 0.0,
        "outstanding": backlog.outstanding,
        "waiting": backlog.waiting,
        "window": int(subscription.pusher.window.size),
        "in_flight": subscription.pusher.in_flight,
        "attempts": counts["pushes"] + counts["pulled"],
    }
    always = ("acked", "nacked", "expired", "dead_lettered", "dropped", "pushes", "pulled")
    return figures | dict.fromkeys(always, 0) | dict(counts)


def _resolve(future: asyncio.Future[None] | None, error: Exception | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _exists(name: str) -> Refused:
    return Refused(
        grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={name})."
    )


def _unavailable(text: str) -> Refused:
    return Refused(grpc.StatusCode.UNAVAILABLE, text)
