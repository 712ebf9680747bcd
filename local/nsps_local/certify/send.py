"""Sends requests to the connector, each within a time, and keeps what came."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from nsps_local.certify.address import Address
from nsps_local.certify.case import Answer, Exchange, Request

_BODY_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Sender:
    address: Address
    token: str

    def send(self, request: Request, patience: float) -> Exchange:
        """One request over a connection of its own; never raises."""
        return self.send_over_one([request], patience)[0]

    def send_over_one(self, requests: list[Request], patience: float) -> list[Exchange]:
        """Requests over one connection, as long as the connector keeps it; never raises."""
        connection = self.address.connect(patience)
        try:
            exchanges: list[Exchange] = []
            for request in requests:
                if exchanges and connection.sock is None:
                    exchanges.append(Exchange(request, None, "the connection was closed", 0.0))
                else:
                    exchanges.append(self._over(connection, request, patience))
            return exchanges
        finally:
            connection.close()

    def headers(self, request: Request) -> dict[str, str]:
        """As NSPS sends them; an empty one is left out."""
        given = {
            "Content-Type": "application/json",
            "x-b3-traceid": uuid.uuid4().hex,
            "x-request-id": str(uuid.uuid4()),
            **request.headers,
        }
        authorization = request.authorization(self.token)
        if authorization is not None:
            given["Authorization"] = authorization
        return {name: value for name, value in given.items() if value}

    def _over(
        self, connection: http.client.HTTPConnection, request: Request, patience: float
    ) -> Exchange:
        private = replace(request, private=request.private | {self.token})
        began = time.monotonic()
        connected = connection.sock is not None
        answer, trouble = None, ""
        try:
            with _at_most(patience, lambda: connection.sock):
                if not connected:
                    connection.connect()
                    connected = True
                answer = self._ask(connection, request)
        except TimeoutError:
            answer = None
            trouble = f"no answer within {patience:.0f} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = time.monotonic() - began >= patience
            trouble = f"no answer within {patience:.0f} s" if late else _why(error, connected)
        return Exchange(private, answer, trouble, time.monotonic() - began, not connected)

    def _ask(self, connection: http.client.HTTPConnection, request: Request) -> Answer:
        body = None if request.method == "GET" else request.body
        path = self.address.paths[request.target]
        connection.request(request.method, path, body, self.headers(request))
        response = connection.getresponse()
        content = response.read(_BODY_MAX)
        if not response.isclosed():
            response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            headers["connection"] = "close"
        return Answer(response.status, headers, content)


@contextmanager
def _at_most(seconds: float, current: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Cuts the connection after a time: one that trickles would last for ever.

    Raises TimeoutError: what came until then is no answer, even where it looks like a whole one.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):
            if (open_socket := current()) is not None:
                open_socket.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


def _why(error: Exception, connected: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): see --ca"
    if not connected:
        return f"no connection: {error}"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "the connection was cut without an answer"
    return f"no HTTP: {type(error).__name__}: {error}"
