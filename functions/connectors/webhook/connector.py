"""Passes events on to any connector that speaks the published NSPS connector contract.

``POST <url>`` with the enriched event and a Bearer token; 2xx means processed. Signed as well, by
Standard Webhooks, where the handler has a signing key.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from nsps.connector.base import Call, Context, Enriched, Message, MessageConnector, Ordering
from nsps.transport.rest import Rest

from . import contract, signature
from .settings import Settings

_SIGNING_KEYS = ("signing_key", "signing_key_next")


class WebhookConnector(MessageConnector[Settings]):
    """A client of the published NSPS connector contract."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        token = context.authentication("bearer", "token")
        rules = contract.answers(settings.permanent_codes)
        hide = context.hide(*_SIGNING_KEYS)
        self._events = Rest(context.http, settings.url, token, rules, hide=hide)
        self._health = Rest(context.http, settings.health, token, rules)

    @property
    def ordering(self) -> Ordering:
        return self.settings.ordering

    def message(self, event: Enriched) -> Message:
        summary = f"{event.event.event_type} for {event.owner}"
        return Message(summary, contract.body(event, self.context.handler))

    def send(self, message: Message, call: Call) -> str:
        repeatable = self.ordering is not Ordering.EVERY
        body = json.dumps(message.content).encode()
        api = replace(self._events, headers=self._headers(body, call))
        response = api.request("POST", "", call, body=body, repeatable=repeatable)
        response.is_done()
        return response.text

    def check(self, call: Call) -> None:
        self._health.request("GET", "", call, rules=contract.HEALTH_ANSWERS).is_done()

    def _headers(self, body: bytes, call: Call) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        names = filter(self.context.has_secret, _SIGNING_KEYS)
        keys = [self.context.secret(name) for name in names]
        if keys:
            ident = f"msg_{self.context.name_of(call)}"
            headers |= signature.headers(ident, body, datetime.now(UTC), keys)
        return headers
