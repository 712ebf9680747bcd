"""What the tests of the sandbox stand on: a receiver of webhooks, a client of the API, waiting with
a deadline.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

Answer = int | tuple[int, str] | Callable[["Hook"], int]


@dataclass
class Hook:
    """One webhook as it arrived."""

    headers: dict[str, str]
    body: dict[str, Any]
    path: str
    at: float = field(default_factory=time.monotonic)

    @property
    def i_event(self) -> Any:
        return self.body["variables"]["i_event"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a burst must not overflow it: what is refused comes late


class Receiver:
    """An endpoint for webhooks: answers come from `answers` one by one, then `usual`."""

    def __init__(self, *answers: Answer, usual: Answer = 200) -> None:
        self.answers = list(answers)
        self.usual = usual
        self.hooks: list[Hook] = []
        self.hold = threading.Event()
        self.hold.set()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook = Hook(dict(self.headers), body, self.path)
                with receiver._lock:
                    receiver.hooks.append(hook)
                    answer = receiver.answers.pop(0) if receiver.answers else receiver.usual
                receiver.hold.wait(20)
                if callable(answer):
                    answer = answer(hook)
                status, text = answer if isinstance(answer, tuple) else (answer, "")
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/espf"

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def types(self) -> list[tuple[str, Any]]:
        """(event type, account or customer) of each webhook, in order of arrival."""
        return [
            (
                h.body["event_type"],
                h.body["variables"].get("i_account") or h.body["variables"].get("i_customer"),
            )
            for h in self.hooks
        ]


@contextmanager
def receiver(*answers: Answer, usual: Answer = 200) -> Iterator[Receiver]:
    server = Receiver(*answers, usual=usual)
    try:
        yield server
    finally:
        server.close()


class Api:
    """A client that logs in and calls; nothing is retried or hidden."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False
        self.token = ""

    def login(self, **params: str) -> dict[str, Any]:
        params = params or {"login": "nsps", "password": "sandbox-password"}
        answer = self.http.post(
            self.url + "/rest/Session/login", json={"params": params}, timeout=10
        )
        content: dict[str, Any] = answer.json()
        self.token = content.get("access_token", self.token)
        return content

    def raw(self, method: str, timeout: float = 10, **params: Any) -> requests.Response:
        return self.http.post(
            f"{self.url}/rest/{method}",
            json={"params": params},
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=timeout,
        )

    def call(self, method: str, **params: Any) -> Any:
        answer = self.raw(method, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fault(self, method: str, **params: Any) -> str:
        """The fault code of a call that must fail the PortaBilling way."""
        answer = self.raw(method, **params)
        assert answer.status_code == 500, (answer.status_code, answer.text)
        content = answer.json()
        assert set(content) == {"faultcode", "faultstring"} and content["faultstring"]
        return str(content["faultcode"])

    def control(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """GET without a body, POST with one; the JSON of a 200."""
        answer = self.control_raw(path, body, method)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def control_raw(
        self, path: str, body: Any = None, method: str | None = None
    ) -> requests.Response:
        verb = method or ("GET" if body is None else "POST")
        return self.http.request(verb, f"{self.url}/sandbox/{path}", json=body, timeout=10)

    def do(self, operation: str, **arguments: Any) -> Any:
        return self.control(f"do/{operation}", arguments)

    def espf(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        verb = "GET" if body is None else "POST"
        options = {"json": body, "headers": headers, "timeout": 10, **options}
        return self.http.request(verb, f"{self.url}/espf/v1/{path}", **options)
