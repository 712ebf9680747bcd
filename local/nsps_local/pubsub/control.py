"""The control port's routes: health, certificates, figures, faults and the clock.

GET  /health     {"status": "ok"}
GET  /certs      {"<key id>": "<PEM public key>"}, as google.auth.jwt.decode takes it
GET  /metrics    see `Broker.metrics`
GET  /faults     what is switched on
POST /faults     {"target": "<topic or subscription name, or *>", "faults": {...}}, see `faults`;
                 without faults they are switched off
POST /clock      {"advance": seconds} -> {"now": Unix seconds}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsps_local.control import BadRequest, Route, known_names, number
from nsps_local.pubsub.broker import Broker
from nsps_local.pubsub.faults import EVERYWHERE
from nsps_local.pubsub.oidc import TokenIssuer

_LARGEST_STEP = 366 * 86400.0


class Control:
    """The routes of one broker, once it is there."""

    def __init__(self) -> None:
        self.broker: Broker | None = None
        self.tokens: TokenIssuer | None = None

    def routes(self) -> Mapping[tuple[str, str], Route]:
        return {
            ("GET", "/health"): lambda _: {"status": "ok" if self._ready() else ""},
            ("GET", "/certs"): self._certs,
            ("GET", "/metrics"): lambda _: self._ready().metrics(),
            ("GET", "/faults"): lambda _: self._ready().faults.shown(),
            ("POST", "/faults"): self._set_faults,
            ("POST", "/clock"): self._advance,
        }

    def _ready(self) -> Broker:
        if self.broker is None:
            raise BadRequest("the broker is not ready yet: try again")
        return self.broker

    def _certs(self, _: dict[str, Any]) -> dict[str, str]:
        self._ready()
        return self.tokens.certs if self.tokens else {}

    def _set_faults(self, body: dict[str, Any]) -> Mapping[str, Any]:
        known_names(body, frozenset({"target", "faults"}))
        target, faults = body.get("target"), body.get("faults") or {}
        broker = self._ready()
        if target not in (*broker.topics, *broker.subscriptions, EVERYWHERE):
            raise BadRequest(f"target: there is no topic or subscription {target!r}")
        if not isinstance(faults, dict):
            raise BadRequest('faults must be an object, such as {"duplicate": 0.5}')
        try:
            broker.faults.set(str(target), faults)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        return broker.faults.shown()

    def _advance(self, body: dict[str, Any]) -> Mapping[str, Any]:
        known_names(body, frozenset({"advance"}))
        return {"now": self._ready().advance(number(body, "advance", 0, _LARGEST_STEP))}
