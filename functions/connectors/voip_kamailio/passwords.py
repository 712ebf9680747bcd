"""A subscriber's SIP password, made from the handler's key, and what Kamailio keeps of one."""

from __future__ import annotations

import hashlib
import hmac

from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

_KEY_LENGTH = 32


def derived(key: SecretValue, user: str) -> str:
    """The password of USERNAME@DOMAIN, always the same for one key. Raises Transient."""
    secret = key.reveal()
    if len(secret) < _KEY_LENGTH:
        raise Transient(f"the secret password_key has less than {_KEY_LENGTH} characters")
    return hmac.new(secret.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def digests(user: str, password: str) -> dict[str, SecretValue]:
    """The columns that Kamailio compares with."""
    username, domain = user.split("@")
    return {
        "ha1": _md5(f"{username}:{domain}:{password}"),
        "ha1b": _md5(f"{user}:{domain}:{password}"),
    }


def _md5(text: str) -> SecretValue:
    return SecretValue(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())
