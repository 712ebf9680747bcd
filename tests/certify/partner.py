"""A connector as a careful partner writes it, small enough to be made worse in one place.

Served in a thread, or (``python partner.py PORT SYSTEM_URL [abrupt]``) as a process of its own.
"""

from __future__ import annotations

import hmac
import json
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import requests

TOKEN = "partner-t0ken"
PATH = "/process-event"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """The event itself is wrong."""


def error(status: int, message: str, kind: str, **headers: str) -> Reply:
    said = {"message": message, "error": message, "type": kind}
    return Reply(status, said, {name.replace("_", "-"): value for name, value in headers.items()})


class Partner:
    """Puts ``{"msisdn", "blocked"}`` of each account to ``system_url/ACCOUNT``."""

    protocol = "HTTP/1.1"
    patience = 0.2
    """Seconds that the system is waited for."""

    def __init__(self, system_url: str) -> None:
        self.system_url = system_url
        self.session = requests.Session()
        self.locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self.newest: dict[str, str] = {}

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if path == "/health":
            return Reply(200)
        if path != PATH:
            return error(404, "Resource not found", "VALIDATION_ERROR")
        if method != "POST":
            return error(405, "Method not allowed", "VALIDATION_ERROR", Allow="POST")
        if not self.authorized(headers.get("Authorization", "")):
            return self.unauthorized()
        try:
            return self.process(self.read(body))
        except Refused as refused:
            return self.refused(refused)
        except requests.RequestException as trouble:
            return self.not_done(trouble)

    def authorized(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), f"Bearer {TOKEN}".encode())

    def unauthorized(self) -> Reply:
        return error(401, "Invalid access token", "AUTHENTICATION_ERROR", WWW_Authenticate="Bearer")

    def refused(self, refused: Refused) -> Reply:
        return error(422, str(refused), "VALIDATION_ERROR")

    def not_done(self, _trouble: requests.RequestException) -> Reply:
        return error(503, "The system does not answer", "CONNECTION_ERROR")

    def read(self, body: bytes) -> Any:
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused("no JSON") from None
        data = event.get("data") if isinstance(event, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get("event_type"), str):
            raise Refused("data.event_type is missing")
        if not isinstance(event.get("event_id"), str):
            raise Refused("event_id is missing")
        return event

    def process(self, event: Any) -> Reply:
        if event["data"]["event_type"].partition("/")[0] not in ("SIM", "Account", "Subscriber"):
            return Reply(202, {"message": "Event ignored: unsupported event type"})
        account = self.account(event)
        number = account.get("id")
        if not isinstance(account.get("i_account"), int) or not isinstance(number, str):
            raise Refused("account_info needs i_account and id")
        state = {"msisdn": number.removesuffix("@msisdn"), "blocked": account.get("blocked")}
        self.in_order(str(account["i_account"]), str(event.get("updated_at")), state)
        return Reply(202, {"message": "Event accepted for processing"})

    def account(self, event: Any) -> dict[str, Any]:
        blocks = event.get("pb_data")
        account = blocks.get("account_info") if isinstance(blocks, dict) else None
        if not isinstance(account, dict):
            raise Refused("account_info is missing")
        return account

    def in_order(self, account: str, at: str, state: dict[str, Any]) -> None:
        with self.locks[account]:
            if at < self.newest.get(account, ""):
                return
            self.write(account, state)
            self.newest[account] = at

    def write(self, account: str, state: dict[str, Any]) -> None:
        url = f"{self.system_url}/{account}"
        self.session.put(url, json=state, timeout=self.patience).raise_for_status()


class Served:
    """A partner's connector over HTTP, on loopback."""

    def __init__(self, partner: Partner, port: int = 0) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = partner.protocol

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    reply = partner.handle(
                        self.command, self.path, dict(self.headers.items()), body
                    )
                except Exception:
                    reply = Reply(500, "<h1>Internal Server Error</h1>")
                content = (
                    reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                ).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            block_on_close = False

            def handle_error(self, *_: Any) -> None:
                pass  # a client that has gone

        self.server = Server(("127.0.0.1", port), Handler)
        self.origin = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.origin}{PATH}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def serve_until_stopped(port: int, system_url: str, abrupt: bool) -> None:
    """A process that stops listening on SIGTERM and lets its threads finish; or does not."""
    stop = threading.Event()
    if not abrupt:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Served(Partner(system_url), port) as served:
        sys.stdout.write(f"{served.url}\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    serve_until_stopped(int(sys.argv[1]), sys.argv[2], "abrupt" in sys.argv)
