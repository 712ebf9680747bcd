"""Sends an event through enrichment once more, for one handler alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from nsps.cloud.messages import Publisher, RawEventMessage
from nsps.runtime.trace import from_attributes


class Resend:
    """Publishes to espf-events; safe to share between threads."""

    def __init__(self, publisher: Callable[[], Publisher], topic: str) -> None:
        self._publisher, self._topic = publisher, topic

    def send(
        self,
        event_id: str,
        body: bytes,
        handler: str | None,
        kept: Mapping[str, Any],
        *,
        run: int | None = None,
        retry_round: int | None = None,
    ) -> None:
        """Publish the event. Raises Transient.

        ``body``: the webhook's JSON. ``kept``: what is known of its coming in: ``received_at``,
        ``trace_id`` and ``request_id``; what is missing is made now. ``handler`` None: for all.
        """
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        ids = {name: str(kept.get(name) or "") for name in ("trace_id", "request_id")}
        received_at, trace = str(kept.get("received_at") or now), from_attributes(ids)
        raw = RawEventMessage(body, event_id, received_at, trace, handler, run, retry_round)
        self._publisher().publish(self._topic, *raw.to_pubsub())
