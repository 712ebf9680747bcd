"""The way in: authenticate a webhook, check it, publish it, answer. No state is held.

ESPF takes exactly 200 as "accepted", deletes an event for ever on any 4xx, and sends it again on
everything else. So 200 is answered only once Pub/Sub has confirmed the message, 4xx only where the
request can never work, and 503 for all that may pass later.
(Source: PortaOne docs, receiving provisioning events.)
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from werkzeug.wrappers import Request, Response

from nsps.cloud.messages import RawEventMessage
from nsps.domain.event import EspfEvent, InvalidWebhook, event_id, parse_webhook
from nsps.domain.outcome import Transient
from nsps.espf import webhook_auth
from nsps.runtime import log, trace
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretMissing, Secrets, SecretUnavailable
from nsps.runtime.settings import IngressSettings

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 5.0
CONFIRM_SECONDS = 5.0
RETRY_AFTER_SECONDS = 10

_log = log.get(__name__)


class Publishes(Protocol):
    """What the ingress needs of messages.Publisher."""

    def publish(
        self, topic: str, data: bytes, attributes: Mapping[str, str], timeout: float
    ) -> str: ...


class Refused(Exception):
    """The webhook is not accepted; ``status`` decides whether ESPF sends it again."""

    def __init__(self, status: int, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Accepted:
    """A webhook that Pub/Sub has."""

    event_id: str
    event: EspfEvent
    message_id: str
    shown: webhook_auth.Match


class Ingress:
    """Handles webhooks; one per instance, shared by its threads.

    ``now``: the time in UTC.
    """

    def __init__(
        self,
        settings: IngressSettings,
        secrets: Secrets,
        publisher: Publishes,
        redactor: Redactor,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._publisher = publisher
        self._redactor = redactor
        self._now = now

    def accept(self, request: Request) -> Accepted:
        """Take a webhook, or raise Refused with what ESPF is to be answered."""
        received_at = self._now()
        if request.method != "POST":
            raise Refused(405, "send webhooks with POST")
        _check_encoding(request)
        body = read_body(request)
        shown = self._authenticated(request, received_at)
        try:
            event = parse_webhook(body)
        except InvalidWebhook as error:
            raise Refused(400, str(error)) from None
        ident = event_id(self._settings.deployment, event)
        message = RawEventMessage(
            body=self._without_secrets(body),
            event_id=ident,
            received_at=received_at.isoformat(timespec="microseconds"),
            trace=trace.current() or trace.new(),
        )
        data, attributes = message.to_pubsub()
        try:
            message_id = self._publisher.publish(
                self._settings.events_topic, data, attributes, CONFIRM_SECONDS
            )
        except Transient as error:
            raise Refused(503, "the event could not be queued: send it again", error) from error
        return Accepted(ident, event, message_id, shown)

    def _without_secrets(self, body: bytes) -> bytes:
        """The body byte for byte; only where it holds a secret field, written anew without it.

        Also where it holds a name twice: of the first value nobody knows then.
        """
        twice = False

        def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal twice
            found = dict(pairs)
            twice = twice or len(found) < len(pairs)
            return found

        document = json.loads(body, object_pairs_hook=members)
        kept = self._redactor.for_store(document)
        return body if kept == document and not twice else json.dumps(kept).encode()

    def _authenticated(self, request: Request, now: datetime) -> webhook_auth.Match:
        """Which credential was shown.

        When none fits, the secrets are read once more: one may just have been rotated or corrected.
        A refusal is 401, after which ESPF deletes the event, unless the deployment asks for 503:
        then ESPF keeps sending it until its password is corrected.
        """
        try:
            match = self._verified(request, now, self._secrets.get)
        except Refused:  # an unusable value may have been corrected since it was cached
            match = None
        if match is None:
            match = self._verified(request, now, self._secrets.refresh)
        if match is None:
            status = self._settings.espf_auth.failure_status
            raise Refused(status, "the webhook's credentials are not accepted")
        return match

    def _verified(
        self, request: Request, now: datetime, read: Callable[[str], Any]
    ) -> webhook_auth.Match | None:
        auth = self._settings.espf_auth
        live: list[webhook_auth.Credential] = []
        unread: SecretUnavailable | None = None
        missing: SecretUnavailable | None = None
        for ref in auth.credentials:
            try:
                live.append(webhook_auth.credential(auth.method, read(ref).json()))
            except SecretMissing as error:  # the second of a rotation may not be there yet
                missing = error
            except SecretUnavailable as error:
                unread = error
            except webhook_auth.InvalidCredential as error:
                unread = SecretUnavailable(f"secret {ref}: {error}")
        if not live:
            unread = unread or missing
        match = webhook_auth.verify(
            request.headers,
            live,
            header=auth.header,
            now=now,
            date_window_seconds=auth.date_window_seconds,
            request_target=f"{request.method.lower()} {request.full_path.rstrip('?')}",
        )
        if match is None and unread is not None:
            raise Refused(503, "the webhook could not be checked: send it again", unread)
        return match


def respond(request: Request, ingress: Callable[[], Ingress]) -> Response:
    """Answer one HTTP request. ``ingress`` makes (or gives) the instance's Ingress."""
    if request.path == "/health" and request.method in ("GET", "HEAD"):
        return _json(200, {"status": "Healthy", "service": "nsps-ingress"})
    started = time.monotonic()
    with trace.use(trace.from_headers(request.headers)):
        try:
            accepted = ingress().accept(request)
        except Refused as refused:
            _log.warning(
                f"webhook refused: {refused}",
                reason=str(refused.cause) if refused.cause else None,
                status=refused.status,
                ms=_ms(started),
            )
            return _refusal(refused.status, str(refused))
        except Exception as error:  # the border: whatever it is may pass later
            _log.error("webhook failed", error=error, status=503, ms=_ms(started))
            return _refusal(503, "the webhook could not be handled: send it again")
        _log.info(
            "webhook accepted",
            event_id=accepted.event_id,
            event_type=accepted.event.event_type,
            i_event=accepted.event.entity("i_event"),
            message_id=accepted.message_id,
            shown=f"{accepted.shown.credential}/{accepted.shown.reading}",
            ms=_ms(started),
        )
        return _json(200, {"event_id": accepted.event_id})


def read_body(request: Request) -> bytes:
    """The whole body, up to 64 KB, within 5 s. Raises Refused: 413, or 503 if it was cut off."""
    declared = request.content_length
    if (declared or 0) > MAX_BODY_BYTES:
        raise Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    body = bytearray()
    try:
        with _body_deadlines.reading(request):
            while len(body) <= MAX_BODY_BYTES and (
                piece := request.stream.read(MAX_BODY_BYTES + 1 - len(body))
            ):
                body += piece
    except Exception as error:  # each web server has its own errors for a broken body
        raise Refused(503, "the body did not arrive whole: send it again", error) from error
    if len(body) > MAX_BODY_BYTES:
        raise Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    if declared is not None and len(body) < declared:
        raise Refused(503, "the body did not arrive whole: send it again")
    return bytes(body)


class _BodyDeadlines:
    """Ends the reading of bodies that take too long; one thread for all of them.

    The server in front does not: gunicorn waits for ever for a body that does not come, also with
    the framework's own time-out for requests (docs/decisions/0022-what-measuring-kept.md).
    It sleeps for as long as a body may take, so whatever begins meanwhile ends after it wakes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[Request, float] = {}  # in the order in which they end
        self._watching = False

    @contextmanager
    def reading(self, request: Request) -> Iterator[None]:
        with self._lock:
            self._ends[request] = time.monotonic() + BODY_SECONDS
            if not self._watching:  # not at import: the web server forks after it
                self._watching = True
                threading.Thread(target=self._watch, name="slow-bodies", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._ends.pop(request, None)

    def _watch(self) -> None:
        while True:
            time.sleep(self._next())

    def _next(self) -> float:
        """End what is over time; the seconds until the next may be."""
        with self._lock:
            now = time.monotonic()
            for request, ends in list(self._ends.items()):
                if ends > now:
                    return ends - now
                del self._ends[request]
                _stop_reading(request)
        return BODY_SECONDS


_body_deadlines = _BodyDeadlines()


def _stop_reading(request: Request) -> None:
    """End the wait for a body that does not come; the answer can still be written."""
    import socket

    connection = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RD)
        except OSError as error:
            _log.debug("the connection was closed already", reason=str(error))


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Refused(415, "the body is compressed: send it as it is")


def _refusal(status: int, message: str) -> Response:
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == 405:
        headers["Allow"] = "POST"
    if status == 401:
        headers["WWW-Authenticate"] = "Basic"
    response = _json(status, {"error": message}, headers)
    # The framework reads the rest of the body after a response that has a length; of a body that
    # is too large, or does not come, there may be no end.
    response.response = iter([response.get_data()])
    return response


def _json(
    status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        json.dumps(document), status, headers=dict(headers or {}), content_type="application/json"
    )


def _ms(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
