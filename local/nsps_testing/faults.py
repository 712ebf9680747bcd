"""Ways to make an external system misbehave in a test: at the socket, and over HTTP.

ChaosProxy stands before any TCP system, real daemons included. ScriptedHttp is an HTTP system that
answers as scripted. Both listen on loopback, on a port of their own.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

_CHUNK = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST


@dataclass(slots=True)
class _Loss:
    """Cut the connection at the n-th request of the client, counted over all connections."""

    turn: int
    answer: bool
    let_through: int


class ChaosProxy:
    """A TCP proxy before ``target`` that hangs, resets, refuses, cuts or is slow when asked to.

    A *turn* is what the client sends before the system speaks: one request, in most protocols.
    Works for pooled connections too: a fault applies at once to those already open. ``pass_all()``
    ends every fault. ``watch`` is given what clients send, as it is handed on.
    """

    def __init__(
        self,
        target: tuple[str, int],
        host: str = "127.0.0.1",
        port: int = 0,
        watch: Callable[[bytes], None] | None = None,
    ) -> None:
        self.target = target
        self.turns = 0
        """Requests seen since the last fault was set or ended."""
        self.opened = 0
        """Connections that clients have made so far."""
        self.closed_by_system = 0
        self._watch = watch or (lambda _data: None)
        self.cut = False
        """Whether the loss last asked for has happened."""
        self._mode: Literal["pass", "hang", "reset"] = "pass"
        self._loss: _Loss | None = None
        self._hang_at = 0
        self._delay = 0.0
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self.address: tuple[str, int] = (host, port)
        self._listen()

    @classmethod
    def before(cls, url: str) -> Self:
        """A proxy before the system at a URL. Raises ValueError unless it is an http one."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url}: write http://HOST[:PORT], without TLS")
        return cls((parts.hostname, parts.port or 80))

    @property
    def host(self) -> str:
        return self.address[0]

    @property
    def port(self) -> int:
        return self.address[1]

    def pass_all(self) -> None:
        """The system is well again. Connections that hung go on where they stopped."""
        self._set("pass")

    def hang(self) -> None:
        """Connections are accepted and nothing more happens, in either direction."""
        self._set("hang")

    def slow(self, seconds: float) -> None:
        """Each answer comes that much later."""
        self._set("pass", delay=seconds)

    def reset(self) -> None:
        """Open connections are reset, new ones as soon as they are made."""
        self._set("reset")

    def refuse(self) -> None:
        """Open connections are reset, new ones refused: nobody listens."""
        self._set("reset", listening=False)

    def hang_at(self, turn: int) -> None:
        """Hang from the n-th request on; the system never sees it."""
        self._set("pass")
        with self._lock:
            self._hang_at = turn

    def drop_connections(self) -> None:
        """Reset what is open now, and go on: what a restart or an idle time-out does to a pool."""
        self._set("reset")
        self._set("pass")

    def lose_request(self, turn: int) -> None:
        """Reset the connection when the n-th request arrives; the system never sees it."""
        self._set("pass", loss=_Loss(turn, answer=False, let_through=0))

    def lose_answer(self, turn: int, let_through: int = 0) -> None:
        """Hand the n-th request on, reset when its answer comes (after its first bytes)."""
        self._set("pass", loss=_Loss(turn, answer=True, let_through=let_through))

    def close(self) -> None:
        self._set("reset", listening=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(
        self,
        mode: Literal["pass", "hang", "reset"],
        listening: bool = True,
        loss: _Loss | None = None,
        delay: float = 0.0,
    ) -> None:
        with self._lock:
            self._mode, self._loss, self.turns, self.cut = mode, loss, 0, False
            self._hang_at, self._delay = 0, delay
            connections = list(self._connections)
        for connection in connections:
            connection.wake()
        if mode == "reset":
            for connection in connections:
                connection.thread.join(5)
        if listening and self._listener is None:
            self._listen()
        elif not listening and self._listener is not None:
            self._stop_listening()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen(64)
        self.address = listener.getsockname()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # no longer listening
            connection = _Connection(self, client)
            with self._lock:
                self.opened += 1
                self._connections.add(connection)
                connection.thread.start()

    def _leave(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def _request(self, new: bool) -> bool:
        """Count a request; False if the connection is to be cut before it is handed on."""
        with self._lock:
            self.turns += new
            if 0 < self._hang_at <= self.turns:
                self._mode, self._hang_at = "hang", 0
            if self._loss and not self._loss.answer and self.turns >= self._loss.turn:
                self._loss, self.cut = None, True
                return False
            return True

    def _answer(self, data: bytes) -> bytes | None:
        """What the client gets of an answer, if the connection is to be cut; None to go on."""
        with self._lock:
            if self._loss and self._loss.answer and self.turns >= self._loss.turn:
                part = data[: self._loss.let_through]
                self._loss, self.cut = None, True
                return part
            return None


class _Connection:
    def __init__(self, proxy: ChaosProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._woken, self._waker = socket.socketpair()
        self._client_spoke = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"!")

    def _run(self) -> None:
        upstream: socket.socket | None = None
        try:
            self._wait_out_hang()
            if self._proxy._mode == "pass":
                upstream = socket.create_connection(self._proxy.target, timeout=10)
                for side in (self._client, upstream):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._step(upstream):
                    pass
        except OSError:
            pass  # one side is gone: so is the connection
        finally:
            self._proxy._leave(self)
            for end in (self._client, upstream):
                if end is not None:
                    _abort(end)
            self._woken.close()
            self._waker.close()

    def _wait_out_hang(self) -> None:
        while self._proxy._mode == "hang":
            select.select([self._woken], [], [])
            self._woken.recv(_CHUNK)

    def _step(self, upstream: socket.socket) -> bool:
        ready, _, _ = select.select([self._woken, self._client, upstream], [], [])
        if self._woken in ready:
            self._woken.recv(_CHUNK)
        self._wait_out_hang()
        if self._proxy._mode == "reset":
            return False
        # The answer first: a request that is here already belongs to the next turn.
        if upstream in ready:
            return self._from_system(upstream)
        return self._client not in ready or self._from_client(upstream)

    def _from_client(self, upstream: socket.socket) -> bool:
        data = self._client.recv(_CHUNK)
        new, self._client_spoke = not self._client_spoke, True
        if not data or not self._proxy._request(new):
            return False
        self._wait_out_hang()
        if self._proxy._mode == "reset":
            return False
        self._proxy._watch(data)
        upstream.sendall(data)
        return True

    def _from_system(self, upstream: socket.socket) -> bool:
        data = upstream.recv(_CHUNK)
        if not data:
            with self._proxy._lock:
                self._proxy.closed_by_system += 1
            with suppress(OSError):
                self._client.shutdown(socket.SHUT_WR)
            return False
        if self._client_spoke:
            select.select([self._woken], [], [], self._proxy._delay)
        part = self._proxy._answer(data)
        self._client_spoke = False
        self._client.sendall(data if part is None else part)
        return part is None


def _abort(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()


@dataclass(frozen=True, slots=True)
class Reply:
    """What ScriptedHttp answers: a body (bytes, text, or what becomes JSON), or a fault instead.

    ``close``: the connection is closed without an answer; ``reset``: it is reset; ``hang``: no
    answer until the system is closed. ``delay``: seconds before anything.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fault: Literal["close", "reset", "hang"] | None = None

    def content(self) -> tuple[bytes, str]:
        """The body as bytes, and its content type."""
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), "application/json"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that ScriptedHttp got; ``path`` holds the query too."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedHttp:
    """An HTTP system on loopback that answers as scripted, and keeps the requests.

    Scripted replies are used up in order; then ``otherwise`` answers: one reply for ever, or a
    function of the request (a small system of its own). With ``tls`` it speaks HTTPS, as localhost.
    """

    def __init__(
        self,
        otherwise: Reply | Callable[[Seen], Reply] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.otherwise: Reply | Callable[[Seen], Reply] = otherwise or Reply(200, {})
        self.requests: list[Seen] = []
        self._script: deque[Reply] = deque()
        self._closed = threading.Event()
        self._server = _Server(self)
        self._scheme = "https" if tls else "http"
        if tls:  # the handshake is the connection's own thread's
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port: what a ChaosProxy takes as its target."""
        return "127.0.0.1", self._server.server_port

    @property
    def url(self) -> str:
        host = "localhost" if self._scheme == "https" else "127.0.0.1"
        return f"{self._scheme}://{host}:{self._server.server_port}"

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, in order."""
        self._script.extend(replies)

    def always(self, reply: Reply) -> None:
        """Answer every request with this from now on."""
        self._script.clear()
        self.otherwise = reply

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reply(self, request: Seen) -> Reply | None:
        """The reply to a request, after its delay; None when the system was closed meanwhile."""
        self.requests.append(request)
        if self._script:
            reply = self._script.popleft()
        elif callable(self.otherwise):
            reply = self.otherwise(request)
        else:
            reply = self.otherwise
        closed = self._closed.wait(None if reply.fault == "hang" else reply.delay)
        return None if closed else reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, system: ScriptedHttp) -> None:
        self.system = system
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up (its deadline is tested) is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet per answer
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(self.command, self.path, dict(self.headers.items()), body)
        reply = self.server.system._reply(seen)
        if reply is None or reply.fault:
            self.close_connection = True
            if reply and reply.fault == "reset":
                self.rfile.close()
                self.wfile.close()
                _abort(self.connection)
            return
        content, content_type = reply.content()
        self.send_response(reply.status)
        for name, value in {"Content-Type": content_type, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """The test reads ``requests`` instead."""
