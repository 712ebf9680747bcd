"""The control port: health, certificates, figures, faults and the clock, over plain HTTP.

GET  /health     {"status": "ok"}
GET  /certs      {"<key id>": "<PEM public key>"}, as google.auth.jwt.decode takes it
GET  /metrics    see `Broker.metrics`
GET  /faults     what is switched on
POST /faults     {"target": "<topic or subscription name, or *>", "faults": {...}}; no faults: off
POST /clock      {"advance": seconds} -> {"now": Unix seconds}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from nsps_local.pubsub.broker import Broker
from nsps_local.pubsub.oidc import TokenIssuer

_MAX_BODY = 1 << 20
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class BadRequestError(ValueError):
    """A body that cannot be used; the text says what it should be."""


class Control:
    """The listening side of the control port; answers from the broker."""

    def __init__(self, broker: Broker, tokens: TokenIssuer) -> None:
        self._broker = broker
        self._server: asyncio.Server | None = None
        self._routes: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("GET", "/health"): lambda _: {"status": "ok"},
            ("GET", "/certs"): lambda _: tokens.certs,
            ("GET", "/metrics"): lambda _: broker.metrics(),
            ("GET", "/faults"): lambda _: broker.faults.shown(),
            ("POST", "/faults"): self._set_faults,
            ("POST", "/clock"): self._advance,
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError with a sentence."""
        try:
            self._server = await asyncio.start_server(self._connected, host, port)
        except OSError as error:
            raise OSError(
                f"Port {port} on {host} cannot be used: another program listens there."
                " Stop it, or choose another --control-port."
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server:
            self._server.close()

    def _set_faults(self, body: Any) -> Any:
        if not isinstance(body, dict) or not isinstance(body.get("target"), str):
            raise BadRequestError('The body must be {"target": "<name or *>", "faults": {...}}.')
        faults = body.get("faults") or {}
        if not isinstance(faults, dict):
            raise BadRequestError('"faults" must be an object: {"duplicate": 0.5}.')
        known = (*self._broker.topics, *self._broker.subscriptions, "*")
        if body["target"] not in known:
            raise ValueError(f"There is no topic or subscription {body['target']!r}.")
        self._broker.faults.set(body["target"], faults)
        return self._broker.faults.shown()

    def _advance(self, body: Any) -> Any:
        seconds = body.get("advance") if isinstance(body, dict) else None
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
            raise BadRequestError('The body must be {"advance": seconds}.')
        return {"now": self._broker.advance(float(seconds))}

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method, path, body = await _request(reader)
            status, answer = self._answer(method, path, body)
        except ValueError as error:
            status, answer = 400, {"error": str(error)}
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        data = json.dumps(answer).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + data)
        writer.close()

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        route = self._routes.get((method, path))
        if route is None:
            known = any(path == other for _, other in self._routes)
            paths = sorted({f"{verb} {other}" for verb, other in self._routes})
            error = f"There is no {method} {path}. There are: {', '.join(paths)}."
            return (405 if known else 404), {"error": error}
        return 200, route(json.loads(body) if body else None)


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("The request's header is too long.") from error
    parts = head[0].split(" ")
    if len(parts) != 3:
        raise ValueError("That is not HTTP.")
    length = 0
    for line in head[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-length":
            length = int(value)
    if not 0 <= length <= _MAX_BODY:
        raise ValueError(f"The body may have at most {_MAX_BODY} bytes.")
    return parts[0], parts[1].partition("?")[0], await reader.readexactly(length)
