"""The external system of the bench: a connector by the published NSPS contract, 10 ms an answer.

It runs on the event loop of the load client, so that both read the same clock.
"""

from __future__ import annotations

import asyncio
import json
import time

ANSWER_SECONDS = 0.010
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
    b'{"message": "processed"}'
)


class System:
    """Answers every POST after 10 ms and notes when an event was answered first."""

    def __init__(self) -> None:
        self.provisioned: dict[int, float] = {}
        """i_event -> time.monotonic() of the first answer."""
        self.calls = 0
        self.open: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port)

    async def stop(self) -> None:
        """Close every connection too, or its callers would wait for an answer."""
        if self._server is not None:
            self._server.close()
        for transport in list(self.open):
            transport.abort()
        await asyncio.sleep(0)

    def answered(self, body: bytes) -> None:
        self.calls += 1
        if body:
            i_event = int(json.loads(body)["data"]["variables"]["i_event"])
            self.provisioned.setdefault(i_event, time.monotonic())


class _Connection(asyncio.Protocol):
    """One request at a time, as HTTP clients without pipelining send them."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._buffer = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._system.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._system.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = 0
        for line in bytes(self._buffer[:end]).lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._answer, body)

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)
            self._system.answered(body)
