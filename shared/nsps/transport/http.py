"""HTTP calls that end in time, and say afterwards whether the request may have taken effect.

    http = Http(threads=8)
    answer = http.request("POST", url, json={...}, deadline=Deadline(15))

A call that never left raises Transient (nothing was changed); one that left and brought no whole
answer raises NoAnswer. Every status is an answer: what it means is the caller's to say.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple, Protocol, Required, TypedDict, Unpack
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError
from urllib3.util import Url, parse_url

from nsps.domain.outcome import NoAnswer, Transient, Unreachable
from nsps.transport.connection import connect, reason_of, resolve
from nsps.transport.deadline import Deadline
from nsps.transport.tls import Tls, TlsRefused, refusal, tls_context

MAX_ANSWER_BYTES = 5_000_000
"""Of an answer's body, unpacked."""
_CHUNK = 65_536


class AnswerTooLarge(NoAnswer):
    """The answer is larger than MAX_ANSWER_BYTES; whether the call took effect is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``headers`` can be looked up in any case; ``url`` has no query."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises NoAnswer if it is not: what answered is not the system."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            kind = self.headers.get("content-type", "no content type").partition(";")[0]
            raise NoAnswer(
                f"{self.url}: the answer is not JSON (HTTP {self.status}, {kind})"
            ) from None

    def retry_after(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
        """Seconds the system asks to wait (Retry-After as seconds or date); None if it does not."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now()).total_seconds())


class RequestOptions(TypedDict, total=False):
    """What a request takes besides method and address, see ``Http.request``."""

    deadline: Required[Deadline]
    headers: Mapping[str, str] | None
    params: Mapping[str, Any] | None
    json: Any
    data: Mapping[str, Any] | str | bytes | None
    idempotent: bool


class Client(Protocol):
    """What a REST client sends its requests with: ``Http``, or one that logs in over it."""

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
        """As ``Http.request``."""

    def renew_certificates(self) -> bool:
        """As ``Http.renew_certificates``."""


class Http:
    """Connections that are kept; safe to share between the threads of an instance.

    ``threads``: connections kept per host. ``metadata_server``: whether the cloud's may be called,
    too. ``tls``: certificates of a handler's own; without it, public authorities and none of ours.
    The environment's proxies and netrc are not used; cookies are not kept.
    """

    def __init__(
        self, threads: int = 32, *, metadata_server: bool = False, tls: Tls | None = None
    ) -> None:
        self._metadata_server = metadata_server
        self._tls = tls
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._pools = urllib3.PoolManager(num_pools=16, maxsize=threads)
        self._pools.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
        """Call, and return the answer whatever its status; redirects are not followed.

        The deadline holds for everything: name look-up, connection, TLS, a slow body. ``params``:
        of the query; a list is given value by value, None is left out. ``json`` or ``data``: the
        body, a mapping as a form, text as UTF-8. ``idempotent``: a kept-alive connection that
        turns out dead is replaced once, at once.

        Raises Transient (never sent), NoAnswer (sent, no whole answer), AddressRefused,
        AnswerTooLarge. Messages hold the address without query and credentials.
        """
        where, address = f"{method.upper()} {_shown(url)}", full_address(url, options.get("params"))
        try:
            body, brought = _body(options.get("json"), options.get("data"))
            headers = _headers({**brought, **(options.get("headers") or {})})
        except ValueError as error:
            raise Transient(f"{where}: {_reason(error)}") from None
        request = _Request(method.upper(), address, headers, body)
        again = options.get("idempotent", False)
        return self._send_trusted(request, where, options["deadline"], again)

    def close(self) -> None:
        """Close every idle connection."""
        self._pools.clear()

    def renew_certificates(self) -> bool:
        """Read the handler's certificates again because an answer says that they are refused;
        whether they differ. Raises Transient."""
        return self._tls is not None and self._tls.renewed(self._context)

    def _with_certificates(self) -> ssl.SSLContext | None:
        """Let new connections be made with the present certificates. Raises Transient."""
        if self._tls is None:
            return None
        context = self._tls.context()
        with self._lock:
            if self._context is not context:
                self._context = context
                self.close()
        return context

    def _send_trusted(self, *request: Any) -> Answer:
        """Send; once more where the certificates that were refused had been renewed meanwhile."""
        context = self._with_certificates()
        try:
            return self._send_again(*request)
        except TlsRefused:
            if self._tls is None or not self._tls.renewed(context):
                raise
        self._with_certificates()
        return self._send_again(*request)

    def _send_again(
        self, request: _Request, where: str, deadline: Deadline, idempotent: bool
    ) -> Answer:
        try:
            return self._send(request, where, deadline)
        except _StaleConnection as stale:
            if not idempotent:
                raise NoAnswer(str(stale)) from stale.__cause__
        # Where one kept connection is dead the others are likely to be.
        self.close()
        try:
            return self._send(request, where, deadline)
        except _StaleConnection as stale:
            raise NoAnswer(str(stale)) from stale.__cause__

    def _send(self, request: _Request, where: str, deadline: Deadline) -> Answer:
        left = deadline.remaining()
        if left <= 0:
            raise Transient(f"{where}: no time left for the call; nothing was sent")
        call = _Call(deadline, self._metadata_server)
        _running.call = call
        response = None
        try:
            response = self._pool(request.url).urlopen(
                request.method,
                request.url.request_uri,
                request.body,
                request.headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=left,
                preload_content=False,
            )
            body = _read(response, where)
            return Answer(response.status, response.headers, body, where.partition(" ")[2])
        except Transient:
            raise
        except (HTTPError, OSError, ValueError) as error:
            raise _classified(call, where, error) from error
        finally:
            _running.call = None
            if response is not None:
                response.close()  # unless it was read to its end
                response.release_conn()

    def _pool(self, url: Url) -> HTTPConnectionPool:
        given = {"ssl_context": self._context or _public()} if url.scheme == "https" else None
        return self._pools.connection_from_host(url.host, url.port, url.scheme, given)


class _Request(NamedTuple):
    """A request as it is sent."""

    method: str
    url: Url
    headers: dict[str, str]
    body: bytes | None


_ALWAYS = {"User-Agent": "NSPS", "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
_HEADER = re.compile(r"[^:\s][^:\r\n]*:(\S[^\r\n]*)?")
_public = cache(tls_context)
"""For systems whose certificates public authorities have signed."""


def full_address(url: str, params: Mapping[str, Any] | None) -> Url:
    """The address of a request with its whole query. Raises Transient: it is none."""
    try:
        parsed = parse_url(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise LocationParseError(url)
        query = "&".join(filter(None, [parsed.query, _encoded(params or {})]))
    except ValueError as error:
        raise Transient(f"{_shown(url)}: {_reason(error)}") from None
    return parsed._replace(query=query or None)


def _encoded(fields: Mapping[str, Any]) -> str:
    given = {name: value for name, value in fields.items() if value is not None}
    return urlencode(given, doseq=True)


def _body(value: Any, data: Any) -> tuple[bytes | None, dict[str, str]]:
    """A body, and the headers that it brings."""
    if isinstance(data, Mapping):
        return _encoded(data).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
    if data is not None:
        return data.encode() if isinstance(data, str) else data, {}
    if value is None:
        return None, {}
    return json.dumps(value, allow_nan=False).encode(), {"Content-Type": "application/json"}


def _headers(given: Mapping[str, str]) -> dict[str, str]:
    """With those that every request has; the later of two of one name counts."""
    found = {name.lower(): (name, value) for name, value in ({**_ALWAYS, **given}).items()}
    if not all(_HEADER.fullmatch(f"{name}:{value}") for name, value in found.values()):
        raise ValueError("a header has a line break in it, or begins with a space")
    return dict(found.values())


class _StaleConnection(Exception):
    """A kept-alive connection was dead before the first byte of an answer."""


class _Call:
    """What happens to the call that a thread is making, noted by its connection."""

    __slots__ = ("connected", "deadline", "metadata_server", "received", "sent")

    def __init__(self, deadline: Deadline, metadata_server: bool) -> None:
        self.deadline = deadline
        self.metadata_server = metadata_server
        self.connected = False
        self.sent = False
        self.received = False


class _Running(threading.local):
    call: _Call | None = None


_running = _Running()


class _CallMixin:
    """Makes a urllib3 connection keep the running call's deadline, and note how far it came."""

    sock: Any
    _dns_host: str
    port: int
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        call = _running.call
        assert call is not None
        call.connected = True
        try:
            connection = _connect(self._dns_host, self.port, call, self.socket_options)
        except ConnectionResetError as error:
            # urllib3 takes it for a reset while sending, and would go on without a connection.
            raise NewConnectionError(self, "reset") from error  # type: ignore[arg-type]
        connection.settimeout(call.deadline.time_left())  # for the whole TLS handshake
        return connection

    def send(self, data: Any) -> None:
        call = _running.call
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        if call is not None:
            self.sock.settimeout(call.deadline.time_left())
            call.sent = True
        super().send(data)  # type: ignore[misc]

    @staticmethod
    def response_class(sock: Any, **given: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_TimedSocket(sock), **given)  # type: ignore[arg-type]


class _HttpConnection(_CallMixin, HTTPConnection):  # type: ignore[misc]
    pass


class _HttpsConnection(_CallMixin, HTTPSConnection):  # type: ignore[misc]
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _TimedSocket:
    """A socket as http.client reads it: each read waits only for what is left of the call."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._call = _running.call

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._call is not None:
            self._sock.settimeout(self._call.deadline.time_left())
        count = self._raw.readinto(buffer)
        if self._call is not None and count:
            self._call.received = True
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _connect(host: str, port: int, call: _Call, options: Any) -> socket.socket:
    left = call.deadline.time_left
    found = resolve(host.strip("[]"), port, left(), metadata_server=call.metadata_server)
    return connect(found, left, options)


def _read(response: urllib3.BaseHTTPResponse, where: str) -> bytes:
    body = bytearray()
    while chunk := response.read(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(f"{where}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _classified(call: _Call, where: str, error: Exception) -> Exception:
    reason = _reason(error)
    tls = _caused_by(error, ssl.SSLError)
    if tls is not None and refusal(tls):
        return TlsRefused(f"{where}: {reason}; nothing was done")
    if not call.sent:
        return Unreachable(f"{where}: {reason}; nothing was sent")
    message = f"{where}: sent, but no whole answer: {reason}"
    timed_out = call.deadline.expired or _caused_by(error, TimeoutError) is not None
    if not call.connected and not call.received and not timed_out:
        return _StaleConnection(message)
    if call.deadline.expired:
        return NoAnswer(f"{where}: no answer within {call.deadline.seconds:g} s")
    return NoAnswer(message)


def _reason(error: Exception) -> str:
    """Why, in words of our own: the libraries' texts hold whole addresses."""
    for kind, words in _REASONS:
        found = _caused_by(error, kind)
        if found is not None:
            return words or reason_of(found)
    return type(error).__name__


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "the name is not known"),
    (LocationParseError, "not a web address"),
    (ConnectionRefusedError, "connection refused"),
    (TimeoutError, "timed out"),
    (urllib3.exceptions.TimeoutError, "timed out"),
    (ssl.SSLError, ""),
    (http.client.RemoteDisconnected, "the connection was closed without an answer"),
    (ConnectionError, "the connection was reset"),
    (urllib3.exceptions.DecodeError, "the answer cannot be unpacked"),
    (http.client.IncompleteRead, "the answer was cut off"),
    (urllib3.exceptions.IncompleteRead, "the answer was cut off"),
    (http.client.HTTPException, "the answer is not HTTP"),
    (urllib3.exceptions.ProtocolError, "the connection was lost"),
    (OSError, "the host cannot be reached"),
    (ValueError, "HTTP cannot carry what was to be sent"),
)


def _caused_by(error: BaseException, kind: type[Any]) -> Any:
    """The first error of this kind among the causes that libraries wrap in one another."""
    seen: list[BaseException] = []
    waiting: list[BaseException] = [error]
    while waiting and len(seen) < 20:
        current = waiting.pop(0)
        if current in seen:
            continue
        seen.append(current)
        if isinstance(current, kind):
            return current
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None)]
        waiting += [item for item in [*current.args, *inner] if isinstance(item, BaseException)]
    return None


def _shown(url: str) -> str:
    """An address without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(not a web address)"
    return f"{parts.scheme}://{host}{parts.path}" if host else "(not a web address)"
