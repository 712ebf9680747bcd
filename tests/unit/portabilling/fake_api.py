"""A PortaBilling in miniature on a real socket, which misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = Callable[["Handler"], None]
CHECK_FAILED = "Server.Session.check_auth.auth_failed"


def fault(code: str, text: str = "Authentification failed") -> Answer:
    return in_json({"faultcode": code, "faultstring": text}, 500)


def in_json(document: Any, status: int = 200) -> Answer:
    return raw(json.dumps(document).encode(), status)


def raw(body: bytes, status: int = 200, content_type: str = "application/json") -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def html(status: int = 200) -> Answer:
    return raw(b"<html><body>Bad Gateway</body></html>", status, "text/html")


def truncated(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"account_info": {"i_acc')
    handler.close_connection = True


def reset(handler: Handler) -> None:
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def hang(handler: Handler) -> None:
    handler.fake.released.wait(20)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A body of which a byte comes every 50 ms: no read of a socket ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(400):
        if handler.fake.released.wait(0.05):
            break
        try:
            handler.wfile.write(b" ")
        except OSError:
            break
    handler.close_connection = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def fake(self) -> FakeApi:
        return self.server.fake

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.fake.answer(self)

    do_GET = do_POST  # noqa: N815 - the name that http.server looks for

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    fake: FakeApi

    def handle_error(self, *args: Any) -> None:
        pass


class FakeApi:
    """``answers``: method -> its answer. ``next``: method -> answers to give first, in order.

    Tokens are t1, t2, ...; ``live`` are those that are accepted.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], str]] = []
        self.answers: dict[str, Answer] = {}
        self.next: dict[str, list[Answer]] = {}
        self.live: set[str] = set()
        self.issued = 0
        self.connections = 0
        self.login_extra: dict[str, Any] = {}
        self.login_delay = 0.0
        self.credentials: dict[str, str] = {"login": "nsps", "password": "right"}
        self.dead_code = CHECK_FAILED
        self.in_login = 0
        self.most_in_login = 0
        self.released = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def called(self, method: str) -> list[dict[str, Any]]:
        return [params for name, params, _ in self.calls if name == method]

    def kill_tokens(self) -> None:
        self.live.clear()

    def answer(self, handler: Handler) -> None:
        path = handler.path
        method = path.removeprefix("/rest/")
        document = json.loads(handler.body or b"{}")
        params = document.get("params", document)
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        with self.lock:
            self.calls.append((method, params, token))
            queued = self.next.get(method)
            first = queued.pop(0) if queued else None
        if first is not None:
            first(handler)
        elif method == "Session/login":
            self._login(handler, params)
        elif method == "Session/refresh_access_token":
            self._refresh(handler, params)
        elif token not in self.live:
            if path.startswith("/rest/"):
                fault(self.dead_code)(handler)
            else:
                raw(b"", 401)(handler)
        else:
            self.answers.get(method, fault("Server.Unknown.method_not_found"))(handler)

    def _login(self, handler: Handler, params: dict[str, Any]) -> None:
        with self.lock:
            self.in_login += 1
            self.most_in_login = max(self.most_in_login, self.in_login)
        self.released.wait(self.login_delay)
        with self.lock:
            self.in_login -= 1
        if params != self.credentials:
            fault("Server.Session.auth_failed")(handler)
            return
        self._issue(handler)

    def _refresh(self, handler: Handler, params: dict[str, Any]) -> None:
        if params.get("refresh_token") != f"r{self.issued}":
            fault("Server.Session.refresh_failed")(handler)
            return
        self._issue(handler)

    def _issue(self, handler: Handler) -> None:
        with self.lock:
            self.issued += 1
            token = f"t{self.issued}"
            self.live.add(token)
        tokens = {"access_token": token, "refresh_token": f"r{self.issued}"}
        in_json({**tokens, **self.login_extra})(handler)
