"""How ESPF proves itself: Basic, Custom or Signature, in a header whose name is configured.

Every live credential and every reading is compared, always all of them and in constant time; a
refusal never says which part was wrong. (Source: PortaOne docs, authentication methods.)

Signature is HMAC-SHA1 over the Date header alone: it proves possession of the key at that time,
not the body. The docs do not settle whether the signed text is the bare date or ``date: <date>``,
so both are read. Where the header names ``headers=``, those are signed, as in HTTP Signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from nsps.runtime.trace import Headers

METHODS = ("basic", "custom", "signature")
_BLIND = secrets.token_bytes(32)
_PARAMETER = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"([^"]*)"|([^\s",]+))\s*(?:,|$)')
_ALGORITHMS: dict[str, Callable[..., Any]] = {
    "": hashlib.sha1,
    "hs2019": hashlib.sha1,
    "hmac-sha1": hashlib.sha1,
    "hmac-sha256": hashlib.sha256,
    "hmac-sha512": hashlib.sha512,
}


class InvalidCredential(ValueError):
    """A credential's secret does not hold what the method needs; no value is quoted."""


@dataclass(frozen=True, slots=True)
class BasicCredential:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CustomCredential:
    type: str
    credentials: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignatureCredential:
    key_id: str
    key: str = field(repr=False)


Credential = BasicCredential | CustomCredential | SignatureCredential


@dataclass(frozen=True, slots=True)
class Match:
    """Which credential was shown (0 is the first), and how it was read; for logs."""

    credential: int
    reading: str


def credential(method: str, secret: Mapping[str, Any]) -> Credential:
    """A credential from its secret's JSON.

    basic {"user", "password"}, custom {"type", "credentials"}, signature {"key_id", "key"}.
    Raises InvalidCredential.
    """
    if method == "basic":
        return BasicCredential(_member(secret, "user"), _member(secret, "password"))
    if method == "custom":
        return CustomCredential(_member(secret, "type", empty=True), _member(secret, "credentials"))
    if method == "signature":
        return SignatureCredential(_member(secret, "key_id"), _member(secret, "key"))
    raise InvalidCredential(f"there is no method {method!r}: write {', '.join(METHODS)}")


def verify(
    headers: Headers,
    credentials: Sequence[Credential],
    *,
    header: str = "Authorization",
    now: datetime,
    date_window_seconds: float = 900,
    request_target: str = "",
) -> Match | None:
    """Which of the live credentials the request shows; None if none of them.

    ``headers``: values as WSGI decodes them (latin-1).
    ``now``: with time zone. ``request_target``: "post /path", for signatures that cover it.
    """
    shown = headers.get(header.lower(), "").strip()
    match: Match | None = None
    for index, known in enumerate(credentials):
        for reading, equal in _readings(shown, known, headers, request_target):
            if equal and match is None:
                match = Match(index, reading)
    signed = any(isinstance(known, SignatureCredential) for known in credentials)
    if signed and not _recent(headers.get("date", ""), now, date_window_seconds):
        return None
    return match


def _readings(
    shown: str, known: Credential, headers: Headers, request_target: str
) -> Iterator[tuple[str, bool]]:
    if isinstance(known, BasicCredential):
        yield from _basic(shown, known)
    elif isinstance(known, CustomCredential):
        expected = f"{known.type} {known.credentials}".strip()
        yield "utf-8", _equal(_wire(shown), expected.encode())
        yield "latin-1", _equal(_wire(shown), _latin1(expected))
    else:
        yield from _signature(shown, known, headers, request_target)


def _basic(shown: str, known: BasicCredential) -> Iterator[tuple[str, bool]]:
    scheme, _, encoded = shown.partition(" ")
    given = _base64(encoded) if scheme.lower() == "basic" else b""
    expected = f"{known.user}:{known.password}"
    yield "utf-8", _equal(given, expected.encode())
    yield "latin-1", _equal(given, _latin1(expected))


def _signature(
    shown: str, known: SignatureCredential, headers: Headers, request_target: str
) -> Iterator[tuple[str, bool]]:
    scheme, _, rest = shown.partition(" ")
    parameters = _parameters(rest) if scheme.lower() == "signature" else {}
    digest = _ALGORITHMS.get(parameters.get("algorithm", "").lower())
    given = _base64(parameters.get("signature", ""))
    named = _equal(_wire(parameters.get("keyid", "")), known.key_id.encode())
    for reading, text in _signed_texts(parameters, headers, request_target):
        expected = hmac.new(known.key.encode(), _wire(text), digest or hashlib.sha1).digest()
        yield reading, _equal(given, expected) & named & (digest is not None)


def _signed_texts(
    parameters: Mapping[str, str], headers: Headers, request_target: str
) -> Iterator[tuple[str, str]]:
    """What may have been signed; always a text that holds the date."""
    date = headers.get("date", "").strip()
    names = parameters.get("headers", "").lower().split()
    if not names:
        yield "<date>", date
    if not names or names == ["date"]:
        yield "date: <date>", f"date: {date}"
    elif "date" in names:
        values = {name: headers.get(name, "").strip() for name in names}
        values["(request-target)"] = request_target
        lines = [f"{name}: {values[name]}" for name in names]
        yield "headers", "\n".join(lines)


def _parameters(text: str) -> dict[str, str]:
    """keyId="test",algorithm="hmac-sha1",... by name in lower case; {} if malformed."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return {}
        found[match[1].lower()] = match[2] if match[2] is not None else match[3]
        at = match.end()
    return found


def _recent(date: str, now: datetime, window: float) -> bool:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return abs((now - moment).total_seconds()) <= window
    except OverflowError:
        return False


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(_wire(text.strip()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _wire(text: str) -> bytes:
    """A header's bytes, as they came over the wire."""
    return text.encode("latin-1", "replace")


def _latin1(text: str) -> bytes:
    """How older senders write a password; empty, which equals nothing, where that cannot be."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return b""


def _equal(given: bytes, expected: bytes) -> bool:
    """Equal, in a time that depends neither on the contents nor on the length of the secret."""
    one = hmac.digest(_BLIND, given, "sha256")
    other = hmac.digest(_BLIND, expected, "sha256")
    return hmac.compare_digest(one, other) and bool(expected)


def _member(secret: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = secret.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise InvalidCredential(f'member "{name}" is missing or not a text')
    return value
