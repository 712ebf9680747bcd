"""The two messages that travel between functions, and how one is published for certain."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsps.domain.event import EspfEvent, Owner, SnapshotTime, parse_webhook
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block
from nsps.runtime.settings import RESERVED_NAMES
from nsps.runtime.trace import Trace, from_attributes

PUBLISH_SECONDS = 10.0
GROUP_MESSAGES, GROUP_BYTES = 100, 1_000_000
"""What one publishing call carries at most; Pub/Sub takes 1,000 messages and 10 MB."""
ENRICHMENT = "enrichment"
"""The stage before every handler's, as dead letters and parked events name it."""
ROUND = "rung"
"""The attribute for ``retry_round``: Pub/Sub keeps messages that have it by this name."""
_HANDLER = re.compile(r"[a-z][a-z0-9-]{1,30}")


class MalformedMessage(ValueError):
    """A message that is not what its topic carries. The message is safe to show."""


@dataclass(frozen=True, slots=True)
class PushMessage:
    """A Pub/Sub message as a push subscription brings it.

    ``delivery_attempt`` counts from 1, and is None where the subscription has no dead letters.
    ``subscription`` is projects/P/subscriptions/S, ``publish_time`` RFC 3339 text.
    """

    data: bytes
    attributes: Mapping[str, str]
    message_id: str
    publish_time: str = ""
    delivery_attempt: int | None = None
    subscription: str = ""


@dataclass(frozen=True, slots=True)
class RawEventMessage:
    """A webhook on its way to enrichment.

    ``body`` is the webhook's JSON, unchanged. ``handler`` and ``run`` (1, 2, ...) are given only
    on a replay, or when a parked event is sent again, for that one handler. ``retry_round``: which
    round of the long retries it is (1, 2, ...); the next one is theirs too.
    """

    body: bytes
    event_id: str
    received_at: str
    trace: Trace
    handler: str | None = None
    run: int | None = None
    retry_round: int | None = None

    @property
    def event(self) -> EspfEvent:
        """Raises event.InvalidWebhook."""
        return parse_webhook(self.body)

    def to_pubsub(self) -> tuple[bytes, dict[str, str]]:
        """Data and attributes for the topic espf-events."""
        attributes = {
            "event_id": self.event_id,
            "received_at": self.received_at,
            **self.trace.attributes(),
        }
        if self.handler is not None:
            attributes["handler"] = self.handler
        _put_numbers(attributes, {"run": self.run, ROUND: self.retry_round})
        return self.body, attributes

    @classmethod
    def from_push(cls, message: PushMessage) -> RawEventMessage:
        """Raises MalformedMessage."""
        attributes = message.attributes
        return cls(
            body=message.data,
            event_id=_attribute(attributes, "event_id"),
            received_at=_attribute(attributes, "received_at"),
            trace=from_attributes(attributes),
            handler=attributes.get("handler") or None,
            run=_number(attributes, "run"),
            retry_round=_number(attributes, ROUND),
        )


@dataclass(frozen=True, slots=True)
class EnrichedMessage:
    """An event with what PortaBilling says about it, on its way to every handler that wants it.

    ``created_at`` and ``updated_at``: ISO 8601 with microseconds and offset. ``t``: the time of
    the snapshot. ``handlers``: the names of the handlers that want it. ``read``: the blocks of
    pb_data that were read; those of them that pb_data lacks are gone in PortaBilling. None in a
    message that was enriched before this was kept.
    """

    event_id: str
    event: EspfEvent
    pb_data: Mapping[str, Any] | None
    t: SnapshotTime
    owner: Owner
    received_at: str
    created_at: str
    updated_at: str
    trace: Trace
    handlers: tuple[str, ...]
    run: int | None = None
    retry_round: int | None = None
    handler_id: str | None = None
    status: str = "queued"
    read: frozenset[Block] | None = None

    def body(self) -> dict[str, Any]:
        """The body of the published NSPS connector contract."""
        return {
            "event_id": self.event_id,
            "data": self.event.body(),
            "pb_data": dict(self.pb_data) if self.pb_data is not None else None,
            "handler_id": self.handler_id,
            "status": self.status,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }

    def to_pubsub(self) -> tuple[bytes, dict[str, str]]:
        """Data and attributes for the topic enriched-events.

        Raises ValueError for a handler whose name would hide an attribute.
        """
        attributes = {
            "event_id": self.event_id,
            "t": self.t,
            "owner": str(self.owner),
            "received_at": self.received_at,
            **self.trace.attributes(),
        }
        _put_numbers(attributes, {"run": self.run, ROUND: self.retry_round})
        for name in self.handlers:
            if name in attributes or not _is_handler(name):
                raise ValueError(f"a handler cannot be named {name!r}")
            attributes[name] = "1"
        body = self.body()
        if self.read is not None:
            body["read"] = sorted(self.read)
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return data.encode("utf-8", "surrogatepass"), attributes

    @classmethod
    def from_push(cls, message: PushMessage) -> EnrichedMessage:
        """Raises MalformedMessage."""
        attributes = message.attributes
        body = _json_object(message.data)
        pb_data = body.get("pb_data")
        if pb_data is not None and not isinstance(pb_data, dict):
            raise MalformedMessage("pb_data is not a JSON object")
        event_id = _attribute(attributes, "event_id")
        if body.get("event_id") != event_id:
            raise MalformedMessage("event_id differs between the attributes and the data")
        received_at = _attribute(attributes, "received_at")
        return cls(
            event_id=event_id,
            event=_event(body.get("data")),
            pb_data=pb_data,
            t=SnapshotTime(_attribute(attributes, "t")),
            owner=_owner(_attribute(attributes, "owner")),
            received_at=received_at,
            created_at=_text(body, "created_at") or received_at,
            updated_at=_text(body, "updated_at") or received_at,
            trace=from_attributes(attributes),
            handlers=_handlers(attributes),
            run=_number(attributes, "run"),
            retry_round=_number(attributes, ROUND),
            handler_id=_text(body, "handler_id"),
            status=_text(body, "status") or "queued",
            read=_blocks(body.get("read")),
        )


class Publisher:
    """Publishes messages, each for certain. Safe to share between threads.

    While a call is under way for a topic, the messages that come meanwhile are sent together in the
    next one. Where none is, a message is sent at once: nothing waits for others to come. It uses
    the client below the batching one, whose threads and timers cost more than the call itself.
    """

    def __init__(self, client: Any = None) -> None:
        self._client = client if client is not None else _publisher_client()
        self._lock = threading.Lock()
        self._waiting: dict[str, list[_Message]] = {}
        """Of the topics for which a call is under way: what goes with the next ones."""

    def publish(
        self,
        topic: str,
        data: bytes,
        attributes: Mapping[str, str],
        timeout: float = PUBLISH_SECONDS,
    ) -> str:
        """Publish to projects/P/topics/T and return the message id once Pub/Sub has confirmed it.

        Raises Transient when that did not happen within ``timeout`` seconds; the message may
        arrive all the same, so publish it again under the same event_id.
        """
        from google.pubsub_v1.types import PubsubMessage

        ends = time.monotonic() + timeout
        own = _Message(PubsubMessage.pb()(data=data, attributes=attributes))
        with self._lock:
            waiting = self._waiting.get(topic)
            if waiting is None:
                self._waiting[topic], own.group = [], [own]
            else:
                waiting.append(own)
        if waiting is not None and not own.ready.wait(timeout):
            with self._lock:
                if own in waiting:
                    waiting.remove(own)
        if own.group:
            self._send(topic, own.group, ends)
        if own.ident is None:
            reason = type(getattr(own.error, "cause", None) or own.error).__name__
            raise Transient(
                f"Pub/Sub did not confirm the message for topic {topic.rpartition('/')[2]} "
                f"within {timeout:g} s ({reason})"
            ) from own.error
        return own.ident

    def _send(self, topic: str, group: list[_Message], ends: float) -> None:
        """One call for the group; then it is the turn of the next, whatever happened to this one:
        else nothing would be sent any more."""
        try:
            self._call(topic, group, ends)
        finally:
            with self._lock:
                waiting = self._waiting[topic]
                if waiting:
                    following = _fitting(waiting)
                    del waiting[: len(following)]
                    following[-1].group = following  # it has the most time left
                    following[-1].ready.set()
                else:
                    del self._waiting[topic]
            for message in group:
                message.ready.set()

    def _call(self, topic: str, group: list[_Message], ends: float) -> None:
        from google.api_core import exceptions, retry
        from google.auth.exceptions import GoogleAuthError
        from google.pubsub_v1.types import PublishRequest

        seconds = max(0.0, ends - time.monotonic())
        again = retry.Retry(
            predicate=retry.if_exception_type(
                exceptions.ServerError, exceptions.TooManyRequests, exceptions.Aborted
            ),
            initial=0.1,
            maximum=1.0,
            timeout=seconds,
        )
        # Built as it is sent: its wrappers cost more.
        raw = PublishRequest.pb()(topic=topic, messages=[each.message for each in group])
        try:
            answer = self._client.publish(PublishRequest.wrap(raw), retry=again, timeout=seconds)
            for message, ident in zip(group, answer.message_ids, strict=False):
                message.ident = str(ident)  # one without an id is not confirmed
        except exceptions.ClientError as error:  # of one of them, perhaps
            group[0].error = error
            for message in group if len(group) > 1 else ():
                self._call(topic, [message], ends)
        except (exceptions.GoogleAPIError, GoogleAuthError) as error:
            for message in group:
                message.error = error


class _Message:
    """A message, and the thread that waits for its confirmation.

    ``group``: what that thread is to send, its own message with others.
    """

    __slots__ = ("error", "group", "ident", "message", "ready")

    def __init__(self, message: Any) -> None:
        self.message = message
        self.ready = threading.Event()
        self.group: list[_Message] = []
        self.ident: str | None = None
        self.error: Exception = TimeoutError()


def _fitting(waiting: Sequence[_Message]) -> list[_Message]:
    """As many as go together in one call; the first in any case."""
    total, found = 0, list[_Message]()
    for each in waiting[:GROUP_MESSAGES]:
        total += each.message.ByteSize()
        if found and total > GROUP_BYTES:
            break
        found.append(each)
    return found


def _publisher_client() -> Any:
    from google.pubsub_v1 import PublisherClient

    emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
    if not emulator:
        return PublisherClient()
    import grpc
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

    # A local server may be stopped and started again: look for it often.
    channel = grpc.insecure_channel(emulator, options=[("grpc.max_reconnect_backoff_ms", 1000)])
    return PublisherClient(transport=PublisherGrpcTransport(channel=channel))


def _attribute(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name)
    if not value:
        raise MalformedMessage(f"the message has no attribute {name}")
    return value


def _put_numbers(attributes: dict[str, str], numbers: Mapping[str, int | None]) -> None:
    attributes.update({name: str(value) for name, value in numbers.items() if value is not None})


def _number(attributes: Mapping[str, str], name: str) -> int | None:
    text = attributes.get(name)
    if not text:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise MalformedMessage(f"attribute {name} is not a whole number from 1")
    return int(text)


def _handlers(attributes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        sorted(name for name, value in attributes.items() if value == "1" and _is_handler(name))
    )


def _is_handler(name: str) -> bool:
    return _HANDLER.fullmatch(name) is not None and name not in RESERVED_NAMES


def _owner(text: str) -> Owner:
    try:
        return Owner.parse(text)
    except ValueError as error:
        raise MalformedMessage("attribute owner is not KIND:ID") from error


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage("the data is not JSON") from error
    if not isinstance(document, dict):
        raise MalformedMessage("the data is not a JSON object")
    return document


def _blocks(names: Any) -> frozenset[Block] | None:
    """Blocks by their names; one that this version does not know is left out."""
    if names is None:
        return None
    if not isinstance(names, list):
        raise MalformedMessage("read is not a list of blocks")
    return frozenset(block for block in Block if block in names)


def _event(data: Any) -> EspfEvent:
    event_type = data.get("event_type") if isinstance(data, dict) else None
    variables = data.get("variables") if isinstance(data, dict) else None
    if not isinstance(event_type, str) or not isinstance(variables, dict):
        raise MalformedMessage("data is not an event with event_type and variables")
    return EspfEvent(event_type, variables)


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None
