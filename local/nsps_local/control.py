"""The control port of an embedded server: a few JSON routes over HTTP on loopback.

It runs on the event loop of the server it belongs to, so a route may touch the server's state
without a lock. It is for tests and operators of the local stack: one request per connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

Answer = Mapping[str, Any] | list[Any]
Route = Callable[[dict[str, Any]], Answer | Awaitable[Answer]]
"""Takes the JSON object of the request's body ({} for none), gives what is answered as JSON."""

MAX_BODY = 1024 * 1024
MAX_HEAD_LINES = 100
READ_SECONDS = 10


class BadRequest(ValueError):
    """The request makes no sense: answered as 400 with this text."""


class Request(NamedTuple):
    method: str
    path: str
    body: dict[str, Any]


class Reply(NamedTuple):
    status: HTTPStatus
    content: Answer


class ControlServer:
    """Serves `routes`, a mapping of (method, path) to Route, until closed."""

    def __init__(self, routes: Mapping[tuple[str, str], Route]) -> None:
        self._routes = dict(routes)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Bind and serve; the port (a free one for 0). Raises OSError where it is taken."""
        self._server = await asyncio.start_server(self._serve, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                reply = await self._reply(reader)
            writer.write(_encode(reply))
            await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            log.debug("control connection ended before a whole request was read")
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> Reply:
        try:
            request = await _read(reader)
            return await self._dispatch(request)
        except BadRequest as refusal:
            return Reply(HTTPStatus.BAD_REQUEST, {"error": str(refusal)})
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            raise
        except Exception:
            log.exception("a control route failed")
            text = "the route failed: see the server's log"
            return Reply(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": text})

    async def _dispatch(self, request: Request) -> Reply:
        route = self._routes.get((request.method, request.path))
        if route is None:
            known = ", ".join(sorted(f"{method} {path}" for method, path in self._routes))
            text = f"no route {request.method} {request.path}; there are: {known}"
            return Reply(HTTPStatus.NOT_FOUND, {"error": text})
        answer = route(request.body)
        if isinstance(answer, Awaitable):
            answer = await answer
        return Reply(HTTPStatus.OK, answer)


async def _read(reader: asyncio.StreamReader) -> Request:
    words = (await _line(reader)).split(" ")
    if len(words) != 3:
        raise BadRequest("not an HTTP request line")
    length = 0
    for _ in range(MAX_HEAD_LINES):
        line = await _line(reader)
        if not line:
            break
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-length":
            length = _length(value.strip())
    else:
        raise BadRequest(f"more than {MAX_HEAD_LINES} header lines")
    raw = await reader.readexactly(length) if length else b""
    return Request(words[0], words[1].partition("?")[0], _object(raw))


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        raw = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise BadRequest("a header line is too long") from None
    return raw.decode("latin-1").rstrip("\r\n")


def _length(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise BadRequest("Content-Length is not a number")
    if int(value) > MAX_BODY:
        raise BadRequest(f"the body is larger than {MAX_BODY} bytes")
    return int(value)


def _object(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def _encode(reply: Reply) -> bytes:
    content = json.dumps(reply.content, default=str).encode()
    head = (
        f"HTTP/1.1 {reply.status.value} {reply.status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + content


def number(body: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """The finite number `name` of a route's body; 0 where it is absent. Raises BadRequest."""
    value = body.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)


def known_names(body: Mapping[str, Any], names: frozenset[str]) -> None:
    """Refuse a body with names the route does not know: a misspelt fault must not pass."""
    unknown = sorted(set(body) - names)
    if unknown:
        raise BadRequest(f"unknown: {', '.join(unknown)}; known are: {', '.join(sorted(names))}")
