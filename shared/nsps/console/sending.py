"""How the console sends events: the way of every event, for one handler."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nsps.cloud.messages import Publisher, RawEventMessage
from nsps.domain.event import RECONCILE, EspfEvent, Owner, event_id, naming
from nsps.runtime import trace


class Sending:
    """Publishes to espf-events; safe to share between threads."""

    def __init__(self, deployment: str, publisher: Callable[[], Publisher], topic: str) -> None:
        self._deployment, self._publisher, self._topic = deployment, publisher, topic

    def reconcile(self, job: str, owner: Owner, handler: str) -> None:
        """Bring an owner's resources to what PortaBilling says. Raises Transient."""
        variables: dict[str, Any] = {**naming(owner), "i_event": f"{job}/{handler}/{owner}"}
        event = EspfEvent(RECONCILE, variables)
        self._send(event, event_id(self._deployment, event), handler, None)

    def replay(
        self, ident: str, event: EspfEvent, received_at: str, handler: str, run: int
    ) -> None:
        """Send an event of the history once more. Raises Transient."""
        self._send(event, ident, handler, run, received_at)

    def _send(
        self, event: EspfEvent, ident: str, handler: str, run: int | None, received: str = ""
    ) -> None:
        raw = RawEventMessage(
            body=json.dumps(event.body()).encode(),
            event_id=ident,
            received_at=received or datetime.now(UTC).isoformat(timespec="microseconds"),
            trace=trace.new(),
            handler=handler,
            run=run,
        )
        self._publisher().publish(self._topic, *raw.to_pubsub())
