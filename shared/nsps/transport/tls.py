"""The certificates of a handler's TLS connections, from its secrets.

    tls = Tls(secret, has_secret, refresh)
    Http(tls=tls), TcpPool(..., tls=tls)

``client_certificate`` is ours, ``ca`` the authority of the system's. A renewed secret counts from
the next connection on; one that the other side refuses is read again at once.
"""

from __future__ import annotations

import re
import ssl
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import certifi

from nsps.domain.outcome import Transient, Unreachable
from nsps.runtime.secrets import SecretValue

CLIENT_CERTIFICATE = "client_certificate"
AUTHORITY = "ca"
TLS_SECRETS = {
    CLIENT_CERTIFICATE: (
        "Our certificate where the system wants one (mutual TLS): certificate, chain and private "
        "key without a passphrase, in PEM form, one after the other."
    ),
    AUTHORITY: (
        "The certificate (PEM) of the authority that signed the system's, if it is no public one."
    ),
}
"""Name -> what it is, of every connector whose manifest says ``tls: true``."""

_REFUSALS = re.compile(r"ALERT_(.*CERTIFICATE.*|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)")


class TlsRefused(Unreachable):
    """One side does not accept the other's certificate; the request was not looked at."""


class InvalidCertificate(ValueError):
    """A client certificate that cannot be used: what is wrong with it, and what to do."""


def refusal(error: BaseException) -> str | None:
    """Why, if a TLS error says that one side does not accept the other's certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused ({error.verify_message}): is its authority the secret ca?"
    alert = _REFUSALS.search(getattr(error, "reason", None) or "")
    if alert is None:
        return None
    said = alert[1].lower().replace("_", " ")
    return f"our certificate is not taken ({said}): correct the secret {CLIENT_CERTIFICATE}"


def tls_context(
    authority: SecretValue | None = None, own: ClientCertificate | None = None
) -> ssl.SSLContext:
    """For connections to a server. ``authority``: one more that may have signed its certificate.

    Raises Transient if that is no certificate: an operator can correct the secret.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if authority is not None:
        try:
            context.load_verify_locations(cadata=authority.reveal())
        except (ssl.SSLError, ValueError):
            raise Transient(
                f"the secret {AUTHORITY} is not a certificate in PEM form: correct it"
            ) from None
    if own is not None:
        own.load_into(context)
    return context


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate with its private key. ``pem``: both, and the chain."""

    pem: SecretValue
    valid_from: datetime
    valid_until: datetime

    @classmethod
    def parse(cls, pem: SecretValue) -> Self:
        """Raises InvalidCertificate, with what to write."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        text = pem.reveal().encode()
        try:
            certificate = x509.load_pem_x509_certificates(text)[0]
        except ValueError:
            raise InvalidCertificate(
                "holds no certificate in PEM form: write it, then its key"
            ) from None
        try:
            key = load_pem_private_key(text, None)
        except TypeError:
            raise InvalidCertificate(
                "its private key has a passphrase: write the key without"
            ) from None
        except Exception:  # whatever the key is, its text is in no error of ours
            raise InvalidCertificate(
                "holds no private key in PEM form: write it after the certificate"
            ) from None
        if key.public_key() != certificate.public_key():
            raise InvalidCertificate(
                "its private key is not that of its first certificate: write the pair"
            )
        return cls(pem, certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def check(self, now: datetime) -> None:
        """Raises InvalidCertificate where it is not valid."""
        if now >= self.valid_until:
            raise InvalidCertificate(
                f"expired on {self.valid_until:%Y-%m-%d %H:%M} UTC: add a renewed one"
            )
        if now < self.valid_from:
            raise InvalidCertificate(
                f"is not valid before {self.valid_from:%Y-%m-%d %H:%M} UTC: add the present one"
            )

    def load_into(self, context: ssl.SSLContext) -> None:
        """Raises InvalidCertificate where OpenSSL does not take it."""
        with tempfile.NamedTemporaryFile() as file:  # readable by us alone; ssl takes no other form
            file.write(self.pem.reveal().encode())
            file.flush()
            try:
                context.load_cert_chain(file.name)
            except ssl.SSLError as error:
                raise InvalidCertificate(
                    f"cannot be used ({error.reason or 'TLS'}): add one that the system takes"
                ) from None


@dataclass(frozen=True, slots=True)
class _Made:
    """A context, and what it was made of."""

    authority: SecretValue | None
    pem: SecretValue | None
    own: ClientCertificate | None
    context: ssl.SSLContext


class Tls:
    """A handler's side of TLS; safe to share between threads.

    ``secret``, ``has_secret``, ``refresh``: as a connector's context has them.
    """

    def __init__(
        self,
        secret: Callable[[str], SecretValue],
        has_secret: Callable[[str], bool],
        refresh: Callable[[str], SecretValue] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secret, self._has = secret, has_secret
        self._refresh = refresh or secret
        self._clock = clock
        self._lock = threading.Lock()
        self._made: _Made | None = None

    def context(self) -> ssl.SSLContext:
        """What a connection is made with now: the same object while the secrets are the same.

        Raises Transient where a secret cannot be used.
        """
        try:
            return self._of(self._secret)
        except Transient:
            return self._of(self._refresh)  # it may have been corrected

    def renewed(self, refused: ssl.SSLContext | None) -> bool:
        """Read the secrets again because one side refused a certificate; whether they differ."""
        return self._of(self._refresh) is not refused

    def _of(self, read: Callable[[str], SecretValue]) -> ssl.SSLContext:
        authority = read(AUTHORITY) if self._has(AUTHORITY) else None
        pem = read(CLIENT_CERTIFICATE) if self._has(CLIENT_CERTIFICATE) else None
        with self._lock:
            made = self._made
            try:
                if made is None or (made.authority, made.pem) != (authority, pem):
                    own = None if pem is None else ClientCertificate.parse(pem)
                    made = _Made(authority, pem, own, tls_context(authority, own))
                if made.own is not None:
                    made.own.check(self._clock())
            except InvalidCertificate as error:
                ref = "" if pem is None else f" ({pem.ref})"
                raise Transient(f"the secret {CLIENT_CERTIFICATE}{ref} {error}") from None
            self._made = made
            return made.context
