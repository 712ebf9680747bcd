"""The sandbox as one server: everything wired, one port on loopback."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response
from nsps.console.pages import render
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from nsps_local.sandbox.answers import Answers
from nsps_local.sandbox.api import RestApi, json_answer
from nsps_local.sandbox.billing import Billing
from nsps_local.sandbox.calls import Calls
from nsps_local.sandbox.config import SandboxConfig
from nsps_local.sandbox.control import Control
from nsps_local.sandbox.event_queue import EventQueue
from nsps_local.sandbox.faults import Faults
from nsps_local.sandbox.runtime import SandboxRuntime
from nsps_local.sandbox.seed import seed_demo
from nsps_local.sandbox.sender import EventSender
from nsps_local.sandbox.sessions import Sessions
from nsps_local.sandbox.status import StatusApi, StatusBook
from nsps_local.sandbox.store import Store
from nsps_local.sandbox.times import Clock

PAGE = Path(__file__).with_name("page.html")
POLL = 0.02  # seconds after which stop() is noticed
MAX_KEPT_BODY = 1_000_000
SECTIONS = ("admin", "webhook", "events", "api")


class PortBusy(OSError):
    """Something else listens on the port."""


class Sandbox:
    """A PortaBilling on loopback.

    >>> with Sandbox(state_dir, config={"webhook": {"url": hook}}) as sandbox:
    ...     sandbox.billing.add_account("447700900001", i_customer=2501, i_product=61)
    ...     requests.post(sandbox.url + "/rest/Session/login", json=...)

    Raises pydantic.ValidationError for a configuration that makes no sense, StateInUse when another
    process has the directory, and, from start(), PortBusy.
    """

    def __init__(
        self,
        state_dir: Path | str,
        port: int = 0,
        host: str = "127.0.0.1",
        config: SandboxConfig | Mapping[str, Any] | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.config = SandboxConfig.model_validate(config or {})
        self._address = (host, port)
        self._server: SandboxServer | None = None
        self.store = Store(Path(state_dir))
        if self.config.seed:
            seed_demo(self.store)
        self.queue = EventQueue(self.store, self.config.events.form(), clock)
        self.queue.enabled = self.config.webhook.enabled
        self.billing = Billing(self.store, self.queue, clock)
        self.sessions = Sessions(
            self.config.admin, self.config.api, self.config.events.i_env, clock
        )
        self.statuses = StatusBook(self.store, clock)
        self.faults = Faults()
        self.calls = Calls()
        self.sender = EventSender(self.queue, self.config.webhook, clock)
        self._app = self._flask()

    @property
    def url(self) -> str:
        """http://127.0.0.1:<port>; known once started."""
        if self._server is None:
            raise RuntimeError("The sandbox is not started.")
        return f"http://{self._address[0]}:{self._server.port}"

    @property
    def app(self) -> Flask:
        """Its web application, for those who call it without a port."""
        return self._app

    def start(self) -> Sandbox:
        """Listen, then send events. The port takes requests when this returns."""
        listener = _listen(*self._address)
        self._server = SandboxServer(listener, self._app)
        threading.Thread(
            target=self._server.serve_forever, args=(POLL,), name="sandbox-http", daemon=True
        ).start()
        self.sender.start()
        return self

    def stop(self) -> None:
        """Stop sending, hang up, close the database. What was not delivered is kept."""
        self.sender.stop()
        self.faults.close()
        if self._server is not None:
            self._server.stop()
        self.store.close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reconfigure(self, changes: Mapping[str, Any]) -> None:
        """Change some settings while running: {"webhook": {"paused": true}}; all or none."""
        tried = self.config.model_dump()
        for name, section in changes.items():
            if name in SECTIONS and isinstance(section, Mapping):
                tried[name] = {**tried[name], **section}
            else:
                tried[name] = section
        accepted = SandboxConfig.model_validate(tried)
        for name in SECTIONS:
            section, new = getattr(self.config, name), getattr(accepted, name)
            for setting in type(section).model_fields:
                setattr(section, setting, getattr(new, setting))
        self.queue.form = self.config.events.form()
        self.queue.enabled = self.config.webhook.enabled
        self.sender.wake()

    def _flask(self) -> Flask:
        app = Flask(__name__)
        rest_answers = Answers(self.store, self.billing, self.config.api, self.config.events.i_env)
        rest = RestApi(rest_answers, self.sessions, self.faults, self.calls)
        espf = StatusApi(self.statuses, self.sessions, self.faults, self.calls)
        parts = SandboxRuntime(
            config=self.config,
            store=self.store,
            queue=self.queue,
            billing=self.billing,
            sessions=self.sessions,
            statuses=self.statuses,
            faults=self.faults,
            calls=self.calls,
        )
        control = Control(parts, self.reconfigure)
        for blueprint in (rest.blueprint(), espf.blueprint(), control.blueprint()):
            app.register_blueprint(blueprint)
        app.add_url_rule("/health", view_func=_health)
        app.add_url_rule("/", view_func=_page)
        app.add_url_rule("/palette.css", view_func=_palette)
        return app


def _health() -> Response:
    return json_answer({"status": "Healthy", "service": "portabilling-sandbox"})


def _page() -> Response:
    return Response(PAGE.read_bytes(), mimetype="text/html")


def _palette() -> Response:
    return Response(render.PALETTE.read_bytes(), mimetype="text/css")


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise PortBusy(f"The sandbox cannot listen on {host}:{port}: {error.strerror}.") from error
    return listener


class Handler(WSGIRequestHandler):
    """Keeps connections, as PortaBilling's web server does; Werkzeug's own would end each.

    That is safe where the whole body has been read before the application runs.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _body_read = False

    def run_wsgi(self) -> None:
        length = self.headers.get("Content-Length", "0")
        self._body_read = (
            "Transfer-Encoding" not in self.headers
            and length.isascii()
            and length.isdigit()
            and int(length) <= MAX_KEPT_BODY
        )
        if not self._body_read:
            super().run_wsgi()
            return
        connection = self.rfile
        self.rfile = io.BufferedReader(io.BytesIO(connection.read(int(length))))
        try:
            super().run_wsgi()
        finally:
            self.rfile = connection

    def send_header(self, keyword: str, value: str) -> None:
        if not (self._body_read and (keyword, value) == ("Connection", "close")):
            super().send_header(keyword, value)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: calls are recorded, and a log line each would cost more than the answer."""

    def log_error(self, format: str, *args: Any) -> None:
        """Nothing: a client that hangs up is daily life here."""


class SandboxServer(ThreadedWSGIServer):
    """A threaded server that, when it stops, hangs up on everybody and waits for its threads."""

    daemon_threads = False  # they are joined: none may use the database once it is closed

    def __init__(self, listener: socket.socket, app: Flask) -> None:
        host, port = listener.getsockname()
        with listener:
            super().__init__(host, port, app, handler=Handler, fd=listener.fileno())
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        self.shutdown()
        with self._guard:
            connections = list(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has hung up by itself
        self.server_close()
