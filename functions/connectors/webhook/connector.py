"""Passes events on to any connector that speaks the published NSPS connector contract.

``POST <url>`` with the enriched event and a Bearer token; 2xx means processed.
"""

from __future__ import annotations

from nsps.connector.base import Call, Context, Enriched, Message, MessageConnector, Ordering
from nsps.transport.rest import Rest

from . import contract
from .settings import Settings


class WebhookConnector(MessageConnector[Settings]):
    """A client of the published NSPS connector contract."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        token = context.authentication("bearer", "token")
        rules = contract.answers(settings.permanent_codes)
        self._events = Rest(context.http, settings.url, token, rules)
        self._health = Rest(context.http, settings.health, token, rules)

    @property
    def ordering(self) -> Ordering:
        return self.settings.ordering

    def message(self, event: Enriched) -> Message:
        summary = f"{event.event.event_type} for {event.owner}"
        return Message(summary, contract.body(event, self.context.handler))

    def send(self, message: Message, call: Call) -> str:
        repeatable = self.ordering is not Ordering.EVERY
        response = self._events.request(
            "POST", "", call, body=message.content, repeatable=repeatable
        )
        response.is_done()
        return response.text

    def check(self, call: Call) -> None:
        self._health.request("GET", "", call, rules=contract.HEALTH_ANSWERS).is_done()
