"""HTTP with a user and password by digest (RFC 7616), for systems that take no other proof.

    api = Rest(DigestHttp(context.http, secret, again), url, NoAuthentication())

The password itself is never sent. A challenge of the server is used until it is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self, Unpack

from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.http import Answer, Client, RequestOptions, full_address

_SCHEME = re.compile(r"\bDigest\s+(.*?)(?=,?\s*\b(?:Digest|Basic)\s|$)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_ALGORITHMS = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks the proof to be made of."""

    realm: str
    nonce: str
    opaque: str | None
    algorithm: str
    counted: bool
    """Whether uses of the nonce are counted (qop=auth)."""
    uses: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    @classmethod
    def of(cls, answer: Answer) -> Self | None:
        """The first challenge of an answer that can be met; None if there is none."""
        for each in _SCHEME.finditer(answer.headers.get("www-authenticate", "")):
            pairs = _PARAMETER.findall(each[1])
            found = {name.lower(): quoted or bare for name, quoted, bare in pairs}
            qop = {each.strip() for each in found.get("qop", "").split(",")} - {""}
            algorithm = found.get("algorithm", "MD5").upper()
            if "nonce" in found and algorithm in _ALGORITHMS and (not qop or "auth" in qop):
                opaque = found.get("opaque")
                return cls(found.get("realm", ""), found["nonce"], opaque, algorithm, bool(qop))
        return None

    def met(self, user: str, password: str, method: str, uri: str, cnonce: str) -> str:
        """The header Authorization for one request."""

        def digest(text: str) -> str:
            return hashlib.new(_ALGORITHMS[self.algorithm], text.encode()).hexdigest()

        shown = {"username": user, "realm": self.realm, "nonce": self.nonce, "uri": uri}
        parts = [digest(f"{user}:{self.realm}:{password}"), self.nonce]
        count = ""
        if self.counted:
            uses = f"{next(self.uses):08x}"
            parts += [uses, cnonce, "auth"]
            count, shown["cnonce"] = f", qop=auth, nc={uses}", cnonce
        shown["response"] = digest(":".join([*parts, digest(f"{method}:{uri}")]))
        if self.opaque is not None:
            shown["opaque"] = self.opaque
        quoted = ", ".join(f'{name}="{value}"' for name, value in shown.items())
        return f"Digest {quoted}, algorithm={self.algorithm}{count}"


class DigestHttp:
    """Safe to share between threads. ``secret``: USER:PASSWORD; ``again`` reads it anew because it
    was refused."""

    def __init__(
        self, http: Client, secret: Callable[[], SecretValue], again: Callable[[], SecretValue]
    ) -> None:
        self._http, self._secret, self._again = http, secret, again
        self._challenge: Challenge | None = None

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
        """As ``Http.request``; what is refused for want of a proof was not carried out."""
        address = full_address(url, options.pop("params", None))
        headers = options.pop("headers", None) or {}

        def send(secret: SecretValue) -> Answer:
            proof = self._proof(secret, method.upper(), address.request_uri)
            options["headers"] = {**headers, **proof}
            answer = self._http.request(method, address.url, **options)
            if answer.status == 401:
                self._challenge = Challenge.of(answer) or self._challenge
            return answer

        secret = self._secret()
        answer = send(secret)
        if answer.status == 401 and self._challenge is not None:
            answer = send(secret)  # there was no challenge yet, or it was over
        if answer.status in (401, 403):
            fresh = self._again()
            answer = send(fresh) if fresh != secret else answer
        return answer

    def renew_certificates(self) -> bool:
        return self._http.renew_certificates()

    def _proof(self, secret: SecretValue, method: str, uri: str) -> dict[str, str]:
        challenge = self._challenge
        if challenge is None:
            return {}
        user, colon, password = secret.reveal().partition(":")
        if not colon:
            raise Transient("the secret of the user is not USER:PASSWORD: correct it")
        proof = challenge.met(user, password, method, uri, secrets.token_hex(8))
        return {"Authorization": proof}
