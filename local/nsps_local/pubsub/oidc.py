"""The tokens of authenticated push: signed here with a key of our own, shaped as Google's.

The key is made on first use and kept beside the broker's data, readable to its owner only.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

LIFETIME = 3600
_RENEW_BEFORE = 300


class TokenIssuer:
    """Issues RS256 tokens in real time (a verifier knows nothing of the broker's moved clock)."""

    def __init__(self, directory: Path) -> None:
        key = _private_key(directory / "oidc-key.pem")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = hashlib.sha256(public).hexdigest()[:40]
        self.certs = {self.key_id: public.decode()}
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self._signer = crypt.RSASigner.from_string(  # type: ignore[no-untyped-call]
            private.decode(), self.key_id
        )
        self._issued: dict[tuple[str, str], tuple[int, str]] = {}

    def token(self, email: str, audience: str) -> str:
        """A token for the service account, valid for at least five minutes yet."""
        now = int(time.time())
        expires, token = self._issued.get((email, audience), (0, ""))
        if expires < now + _RENEW_BEFORE:
            expires = now + LIFETIME
            subject = str(int(hashlib.sha256(email.encode()).hexdigest()[:16], 16))
            claims = {
                "iss": "https://accounts.google.com",
                "aud": audience,
                "azp": subject,
                "sub": subject,
                "email": email,
                "email_verified": True,
                "iat": now,
                "exp": expires,
            }
            token = str(jwt.encode(self._signer, claims), "ascii")  # type: ignore[no-untyped-call]
            self._issued[email, audience] = (expires, token)
        return token


def _private_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise ValueError(f"{path} is not an RSA key. Remove it; a new one will be made.")
        return loaded
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key
