"""What the tests of the flows share: a topic that remembers, messages, an embedded Firestore."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nsps.cloud.messages import PushMessage, RawEventMessage
from nsps.domain.event import EspfEvent, event_id
from nsps.runtime import trace

Sent = tuple[str, dict[str, Any], dict[str, str]]


class Topics:
    """Stands for the publisher; ``faults`` are raised instead of the next publishes."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.faults: list[BaseException | None] = []

    def publish(
        self, topic: str, data: bytes, attributes: Mapping[str, str], timeout: float = 10
    ) -> str:
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        self.sent.append((topic, json.loads(data), dict(attributes)))
        return str(len(self.sent))


def raw(event_type: str = "SIM/Updated", variables: Any = None, **more: Any) -> RawEventMessage:
    """A webhook as the ingress publishes it."""
    event = EspfEvent(
        event_type, {"i_event": 1, "i_account": 9} if variables is None else variables
    )
    return RawEventMessage(
        body=json.dumps(event.body()).encode(),
        event_id=event_id("demo", event),
        received_at="2026-11-21T02:10:03.123456+00:00",
        trace=trace.Trace("4bf92f3577b34da6a3ce929d0e0e4736", "req-1"),
        **more,
    )


def dead_letter(message: RawEventMessage, stage: str, deployment: str = "demo") -> PushMessage:
    """A message as the dead-letter topic brings it."""
    data, attributes = message.to_pubsub()
    source = f"projects/p/subscriptions/{deployment}-{stage}"
    return PushMessage(data, attributes | {"CloudPubSubDeadLetterSourceSubscription": source}, "m")
