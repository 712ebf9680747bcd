"""An external system that notes everything it is sent: a connector of the published contract, over
HTTP, which can be told to hang, to refuse, and to answer again."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(slots=True)
class Received:
    """One event as it came in. ``answered`` is None while it is being worked on.

    ``began``, ``ended``: from when to when that was (Unix seconds); infinity while it goes on.
    """

    body: dict[str, Any]
    number: int
    answered: int | None = None
    began: float = field(default_factory=time.time)
    ended: float = float("inf")

    @property
    def event_id(self) -> str:
        return str(self.body["event_id"])

    @property
    def i_account(self) -> int | None:
        account = (self.body.get("pb_data") or {}).get("account_info") or {}
        value: int | None = account.get("i_account")
        return value

    @property
    def account(self) -> dict[str, Any]:
        return dict((self.body.get("pb_data") or {}).get("account_info") or {})

    @property
    def imsi(self) -> str | None:
        sim = (self.body.get("pb_data") or {}).get("sim_info") or {}
        value: str | None = sim.get("imsi")
        return value


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that was killed is nothing to tell of."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class Recorder:
    """Serves on a free port of loopback; a context manager."""

    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], int] = lambda _: 200
    """The status for an event; 0: no answer, the connection is closed."""
    health: Callable[[], int] = lambda: 200
    """The status when somebody asks how it is."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _free: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._free.set()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                status = recorder.take(json.loads(self.rfile.read(length)))
                if not status:
                    self.close_connection = True
                    return
                try:
                    self.send_response(status)
                    body = b'{"message": "noted"}'
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # whoever asked was killed
                    self.close_connection = True

            def do_GET(self) -> None:
                self.send_response(recorder.health())
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/process-event"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: dict[str, Any]) -> int:
        with self._lock:
            received = Received(body, len(self.received))
            self.received.append(received)
        self._free.wait(120)
        answer = self.answer(received)
        received.ended = time.time()
        received.answered = answer
        return answer

    def hang(self) -> None:
        """From now on keep every caller waiting, until ``release``."""
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def of(self, i_account: int) -> list[Received]:
        """What came in about an account, in the order in which it came."""
        with self._lock:
            return [each for each in self.received if each.i_account == i_account]
