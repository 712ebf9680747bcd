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
import time
from collections.abc import Callable
from typing import Any

from nsps.cloud.jwt import TokenRefused, Tokens
from nsps.cloud.messages import PushMessage
from nsps.runtime.settings import PushSettings
from nsps.runtime.trace import Headers
from nsps.transport.http import Http

_ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})


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
        try:
            claims = self._tokens.claims(token.strip())
        except TokenRefused as refused:
            raise PushRefused(refused.status, f"the push: {refused}") from None
        if claims.get("iss") not in _ISSUERS:
            raise PushRefused(401, "the push token was not issued by Google")
        if claims.get("aud") != self._settings.audience:
            raise PushRefused(403, "the push token is for another audience")
        if claims.get("email") not in (self._settings.service_account, *self._settings.also):
            raise PushRefused(403, "the push token is of another service account")
        if claims.get("email_verified") is not True:
            raise PushRefused(403, "the push token's e-mail is not verified")


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
