"""What Pub/Sub (or the scheduler) pushes to a function: who may, and what it brings.

A push that is not understood is answered with 400: Pub/Sub brings it again and in the end puts it
among the dead letters, where an operator sees it. Acknowledging it would lose it.
(Source: Google Cloud docs, push subscriptions and their authentication.)
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nsps.cloud.messages import PushMessage
from nsps.domain.outcome import DeliveryError
from nsps.runtime import log
from nsps.runtime.settings import PushSettings
from nsps.runtime.trace import Headers
from nsps.transport.http import Deadline, Http

CERTS_TTL_SECONDS = 3600.0
CERTS_REFETCH_SECONDS = 10.0
CERTS_CALL_SECONDS = 5.0
CLOCK_SKEW_SECONDS = 10
TOKEN_SECONDS = 60.0
TOKENS_KEPT = 100
_ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})

_log = log.get(__name__)


class PushRefused(Exception):
    """The push is not answered with success. ``status``: 400, 401, 403 or 503."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_push(body: bytes) -> PushMessage:
    """Read a push body ({"message": {...}, "subscription": ...}).

    Raises PushRefused(400) for anything else; the message quotes no data.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise PushRefused(400, "the push is not JSON") from None
    message = document.get("message") if isinstance(document, dict) else None
    if not isinstance(message, dict):
        raise PushRefused(400, "the push has no message")
    message_id = message.get("messageId") or message.get("message_id")
    if not isinstance(message_id, str):
        raise PushRefused(400, "the pushed message has no messageId")
    return PushMessage(
        data=_data(message.get("data", "")),
        attributes=_attributes(message.get("attributes")),
        message_id=message_id,
        publish_time=_text(message.get("publishTime") or message.get("publish_time")),
        delivery_attempt=_attempt(document.get("deliveryAttempt")),
        subscription=_text(document.get("subscription")),
    )


class PushGuard:
    """Verifies the OIDC token of a push; safe to share between threads.

    ``http``: fetches the certificates. ``clock``: monotonic, in seconds.
    """

    def __init__(
        self,
        settings: PushSettings,
        http: Http,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tokens = Tokens(settings.certs_url, http, clock)

    def check(self, headers: Headers) -> None:
        """Return if the push comes from whom it must.

        Raises PushRefused: 401 for a missing, expired or forged token, 403 for a true one of
        somebody else, 503 while the certificates cannot be fetched.
        """
        if self._settings.unsigned and "PUBSUB_EMULATOR_HOST" in os.environ:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise PushRefused(401, "the push carries no bearer token")
        claims = self._tokens.claims(token.strip())
        if claims.get("iss") not in _ISSUERS:
            raise PushRefused(401, "the push token was not issued by Google")
        if claims.get("aud") != self._settings.audience:
            raise PushRefused(403, "the push token is for another audience")
        if claims.get("email") not in (self._settings.service_account, *self._settings.also):
            raise PushRefused(403, "the push token is of another service account")
        if claims.get("email_verified") is not True:
            raise PushRefused(403, "the push token's e-mail is not verified")


class Tokens:
    """Verifies JSON Web Tokens of one issuer; safe to share between threads.

    ``certs_url``: the issuer's certificates or public keys, {key id: PEM}. ``algorithm``: RS256
    or ES256.
    """

    def __init__(
        self,
        certs_url: str,
        http: Http,
        clock: Callable[[], float] = time.monotonic,
        algorithm: str = "RS256",
    ) -> None:
        self._certificates = _Certificates(certs_url, http, clock)
        self._algorithm = algorithm
        self._clock = clock
        self._seen: dict[str, tuple[float, Mapping[str, Any]]] = {}
        """Tokens that were verified: until when that is believed, and their claims."""

    def claims(self, token: str) -> Mapping[str, Any]:
        """What a token says that is signed and not expired; issuer and audience are the caller's
        to check. Raises PushRefused (401, 503).

        Pub/Sub shows one token for up to an hour: its signature is looked at once a minute.
        """
        until, claims = self._seen.get(token, (float("-inf"), {}))
        now = self._clock()
        if now < until:
            return claims
        claims = self._verified(token)
        if len(self._seen) >= TOKENS_KEPT:
            self._seen = {}
        self._seen[token] = (now + min(TOKEN_SECONDS, claims["exp"] - time.time()), claims)
        return claims

    def _verified(self, token: str) -> Mapping[str, Any]:
        from google.auth import jwt
        from google.auth.exceptions import GoogleAuthError

        kid = _key_id(token, self._algorithm)
        certificate = self._certificates.get(kid)
        if certificate is None:
            raise PushRefused(401, "the push token is signed with an unknown key")
        try:
            claims: Mapping[str, Any] = jwt.decode(  # type: ignore[no-untyped-call]
                token, certs={kid: certificate}, clock_skew_in_seconds=CLOCK_SKEW_SECONDS
            )
        except (GoogleAuthError, ValueError, TypeError, KeyError) as error:
            reason = "is expired" if "expired" in str(error) else "is not valid"
            raise PushRefused(401, f"the push token {reason}") from None
        return claims


class _Certificates:
    """The issuer's certificates: an hour old at most, and fetched anew for an unknown key."""

    def __init__(self, url: str, http: Http, clock: Callable[[], float]) -> None:
        self._url = url
        self._http = http
        self._clock = clock
        self._lock = threading.Lock()
        self._by_kid: dict[str, str] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")

    def get(self, kid: str) -> str | None:
        """The certificate in PEM; None for a key that the issuer does not have."""
        fresh = self._clock() - self._fetched_at < CERTS_TTL_SECONDS
        if fresh and kid in self._by_kid:
            return self._by_kid[kid]
        with self._lock:
            if self._clock() - self._tried_at >= CERTS_REFETCH_SECONDS:
                self._fetch()
            if self._by_kid and self._clock() - self._fetched_at < CERTS_TTL_SECONDS:
                return self._by_kid.get(kid)
        raise PushRefused(503, "the certificates for push tokens cannot be fetched")

    def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            answer = self._http.request(
                "GET", self._url, deadline=Deadline(CERTS_CALL_SECONDS), idempotent=True
            )
            document = answer.json() if answer.status == 200 else None
        except DeliveryError as error:
            _log.warning("the certificates for push tokens cannot be fetched", reason=str(error))
            return
        if not isinstance(document, dict) or not document:
            _log.warning(
                "the certificates for push tokens are not what they must be", status=answer.status
            )
            return
        self._by_kid = {str(kid): str(pem) for kid, pem in document.items()}
        self._fetched_at = self._clock()


def _key_id(token: str, algorithm: str) -> str:
    from google.auth import jwt
    from google.auth.exceptions import GoogleAuthError

    try:
        header = jwt.decode_header(token)  # type: ignore[no-untyped-call]
    except (GoogleAuthError, ValueError, TypeError):
        raise PushRefused(401, "the push token is not a JSON Web Token") from None
    kid = header.get("kid")
    if header.get("alg") != algorithm or not isinstance(kid, str):
        raise PushRefused(401, f"the push token is not signed with {algorithm} and a named key")
    return kid


def _data(value: Any) -> bytes:
    if not isinstance(value, str):
        raise PushRefused(400, "the pushed message's data is not base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise PushRefused(400, "the pushed message's data is not base64") from None


def _attributes(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise PushRefused(400, "the pushed message's attributes are not texts")
    return value


def _attempt(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
