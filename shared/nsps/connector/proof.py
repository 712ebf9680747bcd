"""How a system that calls us proves who it is: by a shared secret, or a signature made with it.

A system that can only call an address as we gave it (a delivery report's) proves itself by what
stands in there: the message's name, and a proof made of the name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Literal

from nsps.connector.base import CallbackRefused, CallbackRequest
from nsps.runtime.secrets import SecretValue
from nsps.transport.rest import base64_of

ProofKind = Literal["bearer", "x-auth-token", "basic", "signature"]

_REMEDIES: dict[ProofKind, str] = {
    "bearer": "send Authorization: Bearer TOKEN",
    "x-auth-token": "send X-Auth-Token: TOKEN",
    "basic": "send Authorization: Basic BASE64",
    "signature": "send X-Signature: sha256=HEX, the HMAC-SHA256 of the body",
}


def check_proof(kind: ProofKind, request: CallbackRequest, secrets: Iterable[SecretValue]) -> None:
    """Whether the request was made with one of the secrets. Raises CallbackRefused."""
    given = _given(kind, request)
    if not given:
        raise CallbackRefused(f"no proof: {_REMEDIES[kind]}")
    for secret in secrets:
        wanted = _wanted(kind, secret.reveal(), request.body)
        if hmac.compare_digest(given.encode(), wanted.encode()):
            return
    raise CallbackRefused("the proof is not valid: is the handler's secret the calling system's?")


def proof_of(name: str, secret: SecretValue) -> str:
    """What goes into an address beside the name of what it is about: 24 hexadecimal digits."""
    return hmac.new(secret.reveal().encode(), name.encode(), hashlib.sha256).hexdigest()[:24]


def is_proof(given: str, name: str, secrets: Iterable[SecretValue]) -> bool:
    """Whether the proof was made of this name, with one of the secrets."""
    wanted = [proof_of(name, secret) for secret in secrets]
    return any(hmac.compare_digest(given.encode(), each.encode()) for each in wanted)


def _given(kind: ProofKind, request: CallbackRequest) -> str:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if kind == "signature":
        return headers.get("x-signature", "").strip().lower().removeprefix("sha256=")
    if kind == "x-auth-token":
        return headers.get("x-auth-token", "").strip()
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    return credentials.strip() if scheme.lower() == kind else ""


def _wanted(kind: ProofKind, secret: str, body: bytes) -> str:
    if kind == "signature":
        return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return base64_of(secret) if kind == "basic" else secret
