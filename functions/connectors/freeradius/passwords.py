"""How a subscriber's password stands in radcheck.

Which of PAP, CHAP and MS-CHAP a form allows: README.md, "Passwords".
"""

from __future__ import annotations

import hashlib
import hmac

from Crypto.Hash import MD4
from nsps.connector.base import Context
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

from .policy import Row
from .settings import PasswordForm

_KEY_LENGTH = 32
_SALT_BYTES = 8


def password_rows(form: PasswordForm, username: str, context: Context) -> list[Row]:
    """What FreeRADIUS compares a login's password with. Raises Transient without its key."""
    if form == "none":
        return []
    if form == "accept":
        return [_row("Auth-Type", "Accept")]
    password = _password(username, context)
    if form == "nt":
        digest = MD4.new(password.encode("utf-16-le")).hexdigest()  # noqa: S303 (MS-CHAP's own)
        return [_row("NT-Password", SecretValue(f"0x{digest}"))]
    if form == "ssha":
        # A salt of its own for each subscriber, and the same each time: else every read differs.
        salt = hashlib.sha256(username.encode()).digest()[:_SALT_BYTES]
        salted = hashlib.sha256(password.encode() + salt).digest() + salt
        return [_row("SSHA2-256-Password", SecretValue(f"0x{salted.hex()}"))]
    return [_row("Cleartext-Password", SecretValue(password))]


def _row(attribute: str, value: str | SecretValue) -> Row:
    return {"attribute": attribute, "op": ":=", "value": value}


def _password(username: str, context: Context) -> str:
    """The subscriber's password, made from the handler's secret."""
    if not context.has_secret("password_key"):
        raise Transient("the handler has no secret password_key, which passwords are made from")
    key = context.secret("password_key").reveal()
    if len(key) < _KEY_LENGTH:
        raise Transient(f"the secret password_key has less than {_KEY_LENGTH} characters")
    return hmac.new(key.encode(), username.encode(), hashlib.sha256).hexdigest()[:32]
