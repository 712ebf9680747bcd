"""Who asks, and in which role.

A person comes with a Google identity: a Bearer ID token, or the assertion that the Identity-Aware
Proxy adds. (Source: Google Cloud docs, verifying ID tokens; IAP signed headers.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from nsps.cloud.jwt import TokenRefused, Tokens
from nsps.runtime.settings import ConsoleSettings
from nsps.runtime.trace import Headers
from nsps.transport.http import Http

IAP_HEADER = "x-goog-iap-jwt-assertion"
_GOOGLE = frozenset({"https://accounts.google.com", "accounts.google.com"})
_IAP = "https://cloud.google.com/iap"


class Role(IntEnum):
    """A higher one may do all that a lower one may."""

    viewer = 1
    operator = 2
    admin = 3


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks: a verified e-mail address, and what it may do.

    ``interception``: may also see what is confidential; no other role includes that.
    """

    email: str
    role: Role
    interception: bool = False


class NotAllowed(Exception):
    """``status``: 401 (nobody, or not proved), 403 (not in that role), 503 (cannot be verified)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Identity:
    """Verifies who asks; safe to share between threads."""

    def __init__(self, settings: ConsoleSettings, http: Http) -> None:
        self._settings = settings
        self._google = Tokens(settings.certs_url, http)
        self._iap = Tokens(settings.iap_certs_url, http, algorithm="ES256")

    def who(self, headers: Headers) -> Person:
        """The person behind a request. Raises NotAllowed."""
        try:
            email = self._email(headers)
        except TokenRefused as refused:
            raise NotAllowed(refused.status, f"{refused}: show a Google ID token") from None
        role = self.role_of(email)
        if role is None:
            raise NotAllowed(403, f"{email} has no role in this console: ask an admin for one")
        watchers = {each.lower() for each in self._settings.interception}
        return Person(email, role, email in watchers)

    def role_of(self, email: str) -> Role | None:
        """The highest role that the address has."""
        domain = f"domain:{email.rpartition('@')[2]}"
        roles = [
            Role[name]
            for name, members in self._settings.roles.items()
            if email in {m.lower() for m in members} or domain in {m.lower() for m in members}
        ]
        return max(roles, default=None)

    def _email(self, headers: Headers) -> str:
        assertion = headers.get(IAP_HEADER, "")
        if assertion and self._settings.iap_audience:
            claims = self._iap.claims(assertion)
            _check(claims, frozenset({_IAP}), (self._settings.iap_audience,))
            return _address(claims)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenRefused(401, "the request carries no bearer token")
        claims = self._google.claims(token.strip())
        _check(claims, _GOOGLE, self._settings.audiences)
        if claims.get("email_verified") is not True:
            raise TokenRefused(401, "the token's e-mail address is not verified")
        return _address(claims)


def _check(claims: Mapping[str, Any], issuers: frozenset[str], audiences: tuple[str, ...]) -> None:
    if claims.get("iss") not in issuers:
        raise TokenRefused(401, "the token was not issued by Google")
    if claims.get("aud") not in audiences:
        raise TokenRefused(401, "the token is made out to another audience")


def _address(claims: Mapping[str, Any]) -> str:
    email = claims.get("email")
    if not isinstance(email, str) or "@" not in email:
        raise TokenRefused(401, "the token names no e-mail address")
    return email.lower()
