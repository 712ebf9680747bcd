"""The signature of the Standard Webhooks specification: HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from datetime import datetime

from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)


def headers(ident: str, body: bytes, at: datetime, keys: Iterable[SecretValue]) -> dict[str, str]:
    """The headers for one request, with a signature for each of the keys that are in use.

    ``ident``: the same for each repetition of a delivery, without a dot, which stands between what
    is signed. Raises Transient.
    """
    time = str(int(at.timestamp()))
    signed = f"{ident}.{time}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(_key(key), signed, "sha256")) for key in keys]
    return {
        "webhook-id": ident,
        "webhook-timestamp": time,
        "webhook-signature": " ".join(f"v1,{each.decode()}" for each in signatures),
    }


def _key(secret: SecretValue) -> bytes:
    text = secret.reveal()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(PREFIX) or len(key) not in _KEY_BYTES:
        raise Transient(
            f"secret {secret.ref} is no signing key: write {PREFIX} and the base64 of 24 to 64 "
            "random bytes"
        )
    return key
