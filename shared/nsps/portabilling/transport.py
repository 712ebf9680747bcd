"""One HTTP call with one deadline for the whole of it: connect, send, headers and body.

A socket time-out is renewed by every byte, so a slow server can stretch a call for ever. Here every
read of the socket is given what is left of the call's time. Connections are pooled and kept alive.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError

from nsps.portabilling.faults import BadAnswer, Unanswered, Unreachable

MAX_BODY = 16 * 1024 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def looks_like_html(self) -> bool:
        return "html" in self.headers.get("Content-Type", "") or self.body.lstrip()[:1] == b"<"


class _Call(threading.local):
    """The call that this thread is in: when it must be over, whether it made a new connection."""

    deadline: float | None = None
    connected: bool = False


_call = _Call()


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if _call.deadline is not None:
            left = _call.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the call's deadline has passed")
            self._sock.settimeout(left)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineSocket:
    """A socket whose reader keeps to the deadline of the call that reads."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Connection(HTTPConnection):
    def connect(self) -> None:
        _call.connected = True
        super().connect()
        self.sock: Any = _DeadlineSocket(self.sock)


class _TlsConnection(HTTPSConnection):
    def connect(self) -> None:
        _call.connected = True
        super().connect()
        self.sock: Any = _DeadlineSocket(self.sock)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _DeadlineAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def pooled_session(threads: int) -> requests.Session:
    """A session with ``threads`` kept-alive connections, no retries and no cookies kept.

    Its calls keep to the deadline of ``Transport``. (PortaBilling's login sets cookies: kept, they
    would mix the calls of two sessions.)
    """
    session = requests.Session()
    adapter = _DeadlineAdapter(pool_connections=4, pool_maxsize=threads, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


class Transport:
    """Sends requests through a session, each within its deadline (an instant of time.monotonic)."""

    def __init__(self, session: requests.Session, connect_seconds: float = 10.0) -> None:
        self._session = session
        self._connect_seconds = connect_seconds

    def send(
        self,
        verb: str,
        url: str,
        *,
        name: str,
        deadline: float,
        headers: Mapping[str, str],
        body: bytes | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """Send one request and read the whole answer.

        ``name`` is what messages call it. ``repeatable``: it may be sent a second time at once if
        a kept-alive connection turns out to be dead. Raises Unreachable, Unanswered, BadAnswer.
        """
        try:
            return self._once(verb, url, deadline, headers, body, name)
        except requests.RequestException as error:
            if not (repeatable and _stale(error) and time.monotonic() < deadline):
                raise _named(error, name, deadline) from None
        try:
            return self._once(verb, url, deadline, headers, body, name)
        except requests.RequestException as error:
            raise _named(error, name, deadline) from None

    def _once(
        self,
        verb: str,
        url: str,
        deadline: float,
        headers: Mapping[str, str],
        body: bytes | None,
        name: str,
    ) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unreachable(f"{name}: not sent: the time for this call had run out")
        _call.deadline, _call.connected = deadline, False
        try:
            with self._session.request(
                verb,
                url,
                data=body,
                headers=dict(headers),
                timeout=(min(left, self._connect_seconds), left),
                stream=True,
                allow_redirects=False,
                auth=_as_it_is,
            ) as response:
                return Reply(response.status_code, response.headers, _whole(response, name))
        finally:
            _call.deadline = None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from putting a login of ~/.netrc in place of the Authorization header."""
    return request


def _whole(response: requests.Response, name: str) -> bytes:
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_BODY:
            raise BadAnswer(f"{name}: the answer is larger than {MAX_BODY} bytes")
    return bytes(body)


def _stale(error: requests.RequestException) -> bool:
    """Whether a kept-alive connection was closed by the other side before it answered."""
    cause = error.args[0] if error.args else None
    if _call.connected or not isinstance(cause, ProtocolError):
        return False
    return any(isinstance(each, ConnectionError) for each in cause.args)


def _named(
    error: requests.RequestException, name: str, deadline: float
) -> Unreachable | Unanswered | BadAnswer:
    """The error in our words: those of requests may quote the request."""
    where = name
    if isinstance(error, requests.exceptions.SSLError):
        return Unreachable(f"{where}: no TLS connection: check the certificate of the url's host")
    if isinstance(error, requests.ConnectTimeout):
        return Unreachable(f"{where}: no connection: the host did not answer in time")
    if isinstance(error, requests.Timeout) or time.monotonic() >= deadline:
        return Unanswered(f"{where}: no whole answer within the time for this call")
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.ConnectionError):
        if error.args and isinstance(error.args[0], ProtocolError):
            return Unanswered(f"{where}: the connection broke before the whole answer had come")
        return Unreachable(f"{where}: no connection: check the url, the network and the host")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return BadAnswer(f"{where}: the answer's body cannot be decoded")
    return Unreachable(f"{where}: the request could not be sent ({type(error).__name__})")
