"""A small HTTP/1.1 client for pushes: POST, the status of the answer, connections kept alive.

Only the status matters to Pub/Sub, so bodies are read and thrown away. Cancelling a `post` breaks
its connection.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

_BODILESS = frozenset({204, 304})
_SKIPPED = frozenset({100, 103})
_MAX_HEADER = 65536
_MAX_IDLE = 64  # per endpoint
_STALE_WITHIN = 0.05  # seconds

Key = tuple[str, str, int]


class BrokenConnectionError(OSError):
    """The connection ended, or said something that is not HTTP, before the answer was whole."""


class PushClient:
    """A pool of connections, per scheme, host and port."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer.

        Raises OSError: not connected, or broken. A kept connection that turns out to be closed is
        replaced by a new one, once.
        """
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        key = (parts.scheme, parts.hostname or "", parts.port or (443 if secure else 80))
        data = _request(parts, headers, body)
        connection = self._kept(key)
        if connection is not None:
            try:
                return await self._exchange(key, connection, data)
            except BrokenConnectionError:
                if not connection.was_stale:
                    raise
        return await self._exchange(key, await self._connect(key), data)

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _exchange(self, key: Key, connection: _Connection, data: bytes) -> int:
        try:
            status = await connection.send(data)
        except BaseException:
            connection.close()
            raise
        idle = self._idle.setdefault(key, [])
        if connection.reusable and len(idle) < _MAX_IDLE:
            idle.append(connection)
        else:
            connection.close()
        return status

    def _kept(self, key: Key) -> _Connection | None:
        connections = self._idle.get(key, [])
        while connections:
            connection = connections.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self, key: Key) -> _Connection:
        scheme, host, port = key
        if scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls if scheme == "https" else None
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, host, port, ssl=tls))[1]


class _Connection(asyncio.Protocol):
    """One exchange at a time."""

    def __init__(self) -> None:
        self._answering = False  # something of the current answer has arrived
        self._sent = 0.0
        self.reusable = True
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._status = 0
        self._left: int | None = None  # of the body; None while in the header
        self._chunked = False
        self._until_close = False
        self._answer: asyncio.Future[int] | None = None

    async def send(self, data: bytes) -> int:
        if self._transport is None or self._transport.is_closing():
            raise BrokenConnectionError("The connection is closed.")
        self._answering, self._left, self._chunked = False, None, False
        self._sent = time.monotonic()
        self._buffer.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answer

    @property
    def was_stale(self) -> bool:
        """Asked when broken: the endpoint had closed it before it heard the request."""
        return not self._answering and time.monotonic() - self._sent < _STALE_WITHIN

    def close(self) -> None:
        self.reusable = False
        if self._transport:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._until_close and exc is None:
            self._finish()
        elif self._answer and not self._answer.done():
            self._answer.set_exception(
                BrokenConnectionError("The endpoint closed the connection without an answer.")
            )

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked
            return
        self._answering = True
        self._buffer += data
        try:
            self._read()
        except ValueError:
            if not self._answer.done():
                self._answer.set_exception(BrokenConnectionError("The answer is not HTTP."))
            self.close()

    # -- the answer

    def _read(self) -> None:
        while self._left is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEADER:
                    raise ValueError("header too long")
                return
            self._header(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        if self._chunked:
            self._skip_chunks()
        elif self._until_close:
            self._buffer.clear()
        elif len(self._buffer) >= self._left:
            del self._buffer[: self._left]
            self._finish()

    def _header(self, header: bytes) -> None:
        first, *lines = header.decode("latin-1").split("\r\n")
        version, status = first.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(first)
        self._status = int(status)
        if self._status in _SKIPPED:
            return
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip().lower()
        connection = fields.get("connection", "keep-alive" if version == "HTTP/1.1" else "close")
        length = fields.get("content-length")
        self._chunked = "chunked" in fields.get("transfer-encoding", "")
        if self._status in _BODILESS or self._status < 200:
            self._chunked, length = False, "0"
        self._until_close = length is None and not self._chunked
        # 102 is not the end in HTTP, but it is an acknowledgement: what follows is not waited for.
        self.reusable = connection != "close" and not self._until_close and self._status >= 200
        self._left = int(length or 0)
        if self._left < 0:
            raise ValueError("negative length")

    def _skip_chunks(self) -> None:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            if size == 0:
                if self._buffer[end + 2 : end + 4] != b"\r\n":
                    self.reusable = False  # trailers: not worth reading
                self._finish()
                return
            if len(self._buffer) < end + size + 4:
                return
            del self._buffer[: end + size + 4]

    def _finish(self) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(self._status)


def _request(parts: SplitResult, headers: Mapping[str, str], body: bytes) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"POST {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: CloudPubSub-Google",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
