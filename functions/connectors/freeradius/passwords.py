"""The forms of a subscriber's password in radcheck.

Which of PAP, CHAP and MS-CHAP a form allows: README.md, "Passwords".
"""

from __future__ import annotations

import hashlib
import hmac

from Crypto.Hash import MD4
from nsps.connector.base import Context, Enriched
from nsps.connector.credentials import SubscriberCredentials
from nsps.domain.outcome import Terminal, Transient
from nsps.runtime.secrets import SecretValue

from .attributes import is_valid
from .policy import Row
from .settings import Settings

_KEY_LENGTH = 32
_SALT_BYTES = 8


class Passwords:
    """The settings ``password`` and ``credentials``."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._looked_up = SubscriberCredentials(context, settings.credentials)

    def rows(self, event: Enriched, username: str) -> list[Row]:
        """What FreeRADIUS compares a login's password with. Raises Transient, Terminal."""
        form = self._settings.login_by
        if form == "none":
            return []
        if form == "accept":
            return [_row("Auth-Type", "Accept")]
        password = self._password(event, username)
        if form == "nt":
            digest = MD4.new(password.encode("utf-16-le")).hexdigest()  # noqa: S303 (MS-CHAP's own)
            return [_row("NT-Password", SecretValue(f"0x{digest}"))]
        if form == "ssha":
            # A salt of each subscriber's own, and the same each time: else no read is equal.
            salt = hashlib.sha256(username.encode()).digest()[:_SALT_BYTES]
            salted = hashlib.sha256(password.encode() + salt).digest() + salt
            return [_row("SSHA2-256-Password", SecretValue(f"0x{salted.hex()}"))]
        if not is_valid("string", password):
            raise Terminal(
                "the subscriber's password holds what FreeRADIUS would expand (a backslash, %{ or "
                "a quote at the beginning): change it, or let the setting password be nt or ssha"
            )
        return [_row("Cleartext-Password", SecretValue(password))]

    def _password(self, event: Enriched, username: str) -> str:
        """The subscriber's own, or one made from the handler's secret."""
        if self._settings.credentials is not None:
            found = self._looked_up.of(event, lambda each: each.secret("password"))
            assert found is not None  # where it is needed, none is an error
            return found.reveal()
        key = self._context.secret("password_key").reveal()
        if len(key) < _KEY_LENGTH:
            raise Transient(f"the secret password_key has less than {_KEY_LENGTH} characters")
        return hmac.new(key.encode(), username.encode(), hashlib.sha256).hexdigest()[:32]


def _row(attribute: str, value: str | SecretValue) -> Row:
    return {"attribute": attribute, "op": ":=", "value": value}
