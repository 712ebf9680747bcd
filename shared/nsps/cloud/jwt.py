"""Verifies JSON Web Tokens by their issuer's public keys.

(Source: Google Cloud docs, verifying ID tokens.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nsps.domain.outcome import DeliveryError
from nsps.runtime import log
from nsps.transport.deadline import Deadline
from nsps.transport.http import Http

CERTS_TTL_SECONDS = 3600.0
CERTS_REFETCH_SECONDS = 10.0
CERTS_CALL_SECONDS = 5.0
CLOCK_SKEW_SECONDS = 10
TOKEN_SECONDS = 60.0
TOKENS_KEPT = 100

_log = log.get(__name__)


class TokenRefused(Exception):
    """``status``: 401 for a token that does not count, 503 while that cannot be known."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


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
        to check. Raises TokenRefused (401, 503).

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
            raise TokenRefused(401, "the token is signed with an unknown key")
        try:
            claims: Mapping[str, Any] = jwt.decode(  # type: ignore[no-untyped-call]
                token, certs={kid: certificate}, clock_skew_in_seconds=CLOCK_SKEW_SECONDS
            )
        except (GoogleAuthError, ValueError, TypeError, KeyError) as error:
            reason = "is expired" if "expired" in str(error) else "is not valid"
            raise TokenRefused(401, f"the token {reason}") from None
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
        raise TokenRefused(503, "the certificates for tokens cannot be fetched")

    def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            answer = self._http.request(
                "GET", self._url, deadline=Deadline(CERTS_CALL_SECONDS), idempotent=True
            )
            document = answer.json() if answer.status == 200 else None
        except DeliveryError as error:
            _log.warning("the certificates for tokens cannot be fetched", reason=str(error))
            return
        if not isinstance(document, dict) or not document:
            _log.warning(
                "the certificates for tokens are not what they must be", status=answer.status
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
        raise TokenRefused(401, "the token is not a JSON Web Token") from None
    kid = header.get("kid")
    if header.get("alg") != algorithm or not isinstance(kid, str):
        raise TokenRefused(401, f"the token is not signed with {algorithm} and a named key")
    return kid
