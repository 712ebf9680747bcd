"""What the embedded Google services share: an asyncio gRPC server with a control port beside it.

A service is a plain object (see `Service`). `EmbeddedServer` runs it inside a test or another
program, `serve` runs it as a process. All embedded servers of one process share one event loop
thread, because gRPC's asyncio poller is made for one loop.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from nsps_local.control import ControlServer, Route

log = logging.getLogger(__name__)

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of a gRPC message: above the services' own limits, which have words of their own."""

OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server on the same port would start and steal calls
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
]
START_SECONDS = 30
STOP_GRACE_SECONDS = 0.5
PORT_BUSY = 2
"""Exit status where a port is taken."""


class Refused(Exception):
    """A call is refused: `code` is a grpc.StatusCode, `text` says what, where, what to do."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class PortBusyError(OSError):
    """The server cannot bind the address; the text is one sentence for a person."""


class Service(Protocol):
    """What an embedded server serves. `start` and `stop` run on the loop that serves the calls.

    A service whose calls wait may have a `dismiss()` too: it is to end them, before they are cut.
    """

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]: ...
    def routes(self) -> Mapping[tuple[str, str], Route]: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def decoder(request_type: Any) -> Callable[[bytes], Any]:
    """Reads requests of a type; of bytes that are none (invalid UTF-8 in a text) it makes a

    Refused, for `readable` to raise where the call can be ended with it.
    """

    def decode(raw: bytes) -> Any:
        try:
            return request_type.FromString(raw)
        except DecodeError as error:
            return Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The request cannot be read as a {request_type.DESCRIPTOR.name}: {error}",
            )

    return decode


def readable(request: Any) -> Any:
    """The request that a decoder made. Raises Refused where it could not be read."""
    if isinstance(request, Refused):
        raise request
    return request


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield readable(request)


def unary(request_type: Any, method: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """A unary handler: `method(request, context)` gives a protobuf message, or one encoded."""

    async def call(request: Any, context: Any) -> Any:
        try:
            return await method(readable(request), context)
        except Exception as error:
            await _abort(context, error)

    return grpc.unary_unary_rpc_method_handler(call, decoder(request_type), encode)


def streaming(request_type: Any, method: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
    """A handler that answers with a stream: `method(request, context)` is an async generator."""

    async def call(request: Any, context: Any) -> None:
        try:
            async for answer in method(readable(request), context):
                await context.write(answer)
        except Exception as error:
            await _abort(context, error)

    return grpc.unary_stream_rpc_method_handler(call, decoder(request_type), encode)


def bidirectional(
    request_type: Any, method: Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]]
) -> Any:
    """A handler of streams both ways: `method(requests, context)` is an async generator."""

    async def call(requests: Any, context: Any) -> None:
        try:
            async with aclosing(method(_each_readable(requests), context)) as answers:  # type: ignore[type-var]
                async for answer in answers:
                    await context.write(answer)
        except Exception as error:
            await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call, decoder(request_type), encode)


async def _abort(context: Any, error: Exception) -> None:
    """End a call with what the error says; one that is neither Refused nor the disk's is a fault of
    the server."""
    if isinstance(error, Refused):
        await context.abort(error.code, error.text)
    if isinstance(error, sqlite3.Error):  # a full disk, for one: it may be tried again
        text = f"The server cannot write to its disk: {error}. Nothing was kept."
        log.error(text)
        await context.abort(grpc.StatusCode.UNAVAILABLE, text)
    log.error("a call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "The server failed: see its log.")


def encode(message: Any) -> bytes:
    """The wire form of an answer; bytes are answers that were encoded by hand."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


class RunningServer:
    """A service on its ports, on the running loop."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.port = 0
        self.control_port = 0
        self._grpc: Any = None
        self._control: ControlServer | None = None

    async def open(self, host: str, port: int, control_port: int) -> None:
        """Bind both ports and serve. Raises PortBusyError."""
        server = aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(tuple(self.service.handlers()))
        try:
            self.port = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise PortBusyError(busy(host, port))
        self._control = ControlServer(self.service.routes())
        try:
            self.control_port = await self._control.start(host, control_port)
        except OSError:
            await server.stop(None)
            raise PortBusyError(busy(host, control_port)) from None
        await self.service.start()
        await server.start()
        self._grpc = server

    async def close(self) -> None:
        if self._control is not None:
            await self._control.stop()
        if self._grpc is not None:
            getattr(self.service, "dismiss", lambda: None)()
            await self._grpc.stop(STOP_GRACE_SECONDS)
        await self.service.stop()


def busy(host: str, port: int) -> str:
    return (
        f"Cannot listen on {host}:{port}: it is in use; stop what uses it or choose another port."
    )


class EmbeddedServer:
    """Runs a service inside this process; also a context manager.

    `make_service` is called on the loop at every start, so that a stopped server can be started
    again on the state it left.
    """

    def __init__(
        self,
        make_service: Callable[[], Service],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int = 0,
    ) -> None:
        self._make_service = make_service
        self._host = host
        self._port = port
        self._control_port = control_port
        self._running: RunningServer | None = None

    def start(self) -> None:
        """Serve until stop(). Raises PortBusyError, or what the service refuses its state with."""
        if self._running is None:
            self._running = _on_loop(self._open())

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            _on_loop(running.close())

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """host:port of the gRPC server, as *_EMULATOR_HOST wants it."""
        return f"{self._host}:{self._started().port}"

    @property
    def control_url(self) -> str:
        """Where the control port is: http://host:port, no slash at the end."""
        return f"http://{self._host}:{self._started().control_port}"

    @property
    def service(self) -> Any:
        """The service itself; its state belongs to the loop's thread."""
        return self._started().service

    def _started(self) -> RunningServer:
        if self._running is None:
            raise RuntimeError("the embedded server is not started: call start() first")
        return self._running

    async def _open(self) -> RunningServer:
        running = RunningServer(self._make_service())
        try:
            await running.open(self._host, self._port, self._control_port)
        except BaseException:
            await running.close()
            raise
        return running


_loop_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _on_loop(work: Any) -> Any:
    """Run a coroutine on the shared loop's thread and wait for what it gives."""
    global _loop  # noqa: PLW0603 - one loop a process, see above
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="embedded-servers", daemon=True).start()
        loop = _loop
    return asyncio.run_coroutine_threadsafe(work, loop).result(START_SECONDS)


def serve(
    name: str, make_service: Callable[[], Service], host: str, port: int, control_port: int
) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit status. Prints one line when ready."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(name, make_service, host, port, control_port))
    except PortBusyError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return PORT_BUSY
    return 0


async def _serve(
    name: str, make_service: Callable[[], Service], host: str, port: int, control_port: int
) -> None:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    running = RunningServer(make_service())
    try:
        await running.open(host, port, control_port)
        sys.stdout.write(
            f"{name} ready on {host}:{running.port}, control http://{host}:{running.control_port}\n"
        )
        sys.stdout.flush()
        await end.wait()
    finally:
        await running.close()
