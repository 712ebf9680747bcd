"""Whoever pushes must show a token of the right issuer, audience and account, in time and unforged.

Tokens are signed here, with the stack's own key and with another; the functions that are asked are
the stack's real processes.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from google.auth import crypt, jwt
from nsps_local.pubsub.oidc import TokenIssuer

from tests.end_to_end import processes
from tests.end_to_end.whole_stack import WholeStack

ENDPOINTS = [
    ("enrichment", "/"),
    ("subscribers", "/"),
    ("subscribers", "/health?deep=1"),
    ("subscribers", "/preview"),
    ("subscribers", "/try"),
    ("retries", "/"),
    ("retries", "/tick"),
    ("console", "/work"),
]
HOUR = 3600


class Caller:
    """Knows what a function expects, and calls it with tokens of its own making."""

    def __init__(self, stack: WholeStack, part: str, path: str) -> None:
        described = stack.description["handlers"].get(part) or stack.description[part]
        self.url = described["url"] + path
        self.method = "GET" if path.startswith("/health") else "POST"
        self.expects: dict[str, Any] = json.loads(
            processes.environment(stack.pid(part))["NSPS_PUSH"]
        )
        self._issuer = TokenIssuer(stack.state / "pubsub")
        self._key = (stack.state / "pubsub" / "oidc-key.pem").read_bytes()

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": "https://accounts.google.com",
            "aud": self.expects["audience"],
            "email": self.expects["service_account"],
            "email_verified": True,
            "sub": "1",
            "iat": now,
            "exp": now + HOUR,
        } | changes

    def token(self, claims: Mapping[str, Any], key: bytes | None = None) -> str:
        loaded = serialization.load_pem_private_key(key or self._key, password=None)
        pem = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        signer = crypt.RSASigner.from_string(pem.decode(), self._issuer.key_id)  # type: ignore[no-untyped-call]
        return str(jwt.encode(signer, claims), "ascii")  # type: ignore[no-untyped-call]

    def status(self, authorization: str | None) -> int:
        """Of a push that is none: its answer, 400, comes only after the token was looked at."""
        headers = {"Authorization": authorization} if authorization else {}
        answer = requests.request(self.method, self.url, data=b"{}", headers=headers, timeout=60)
        return answer.status_code


@pytest.fixture(scope="module", params=ENDPOINTS, ids="".join)
def caller(request: pytest.FixtureRequest, stack: WholeStack) -> Caller:
    return Caller(stack, *request.param)


def test_a_token_as_google_makes_it_is_taken(caller: Caller) -> None:
    assert caller.status(f"Bearer {caller.token(caller.claims())}") not in (401, 403, 503)
    short = caller.claims(iss="accounts.google.com")
    assert caller.status(f"Bearer {caller.token(short)}") not in (401, 403, 503)


WRONG: list[tuple[str, dict[str, Any], int]] = [
    ("another audience", {"aud": "https://europe-west3-p.cloudfunctions.net/other"}, 403),
    ("the local address as audience", {"aud": "http://127.0.0.1"}, 403),
    ("another issuer", {"iss": "https://accounts.example.com"}, 401),
    ("another account", {"email": "somebody@gmail.com"}, 403),
    ("an account of another project", {"email": "e2e-invoker@other.iam.gserviceaccount.com"}, 403),
    ("an e-mail that is not verified", {"email_verified": False}, 403),
    ("expired", {"iat": 1_700_000_000, "exp": 1_700_003_600}, 401),
    ("just expired", {"iat": int(time.time()) - HOUR, "exp": int(time.time()) - 60}, 401),
    ("not valid yet", {"iat": int(time.time()) + HOUR, "exp": int(time.time()) + 2 * HOUR}, 401),
]


@pytest.mark.parametrize(("changes", "status"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_token_that_says_something_else_is_refused(
    caller: Caller, changes: dict[str, Any], status: int
) -> None:
    assert caller.status(f"Bearer {caller.token(caller.claims(**changes))}") == status


def test_a_token_without_a_claim_is_refused(caller: Caller) -> None:
    for name in ("iss", "aud", "email", "email_verified", "iat", "exp"):
        claims = caller.claims()
        del claims[name]
        assert caller.status(f"Bearer {caller.token(claims)}") in (401, 403), name


def test_a_token_that_somebody_else_signed_is_refused(caller: Caller, tmp_path: Path) -> None:
    TokenIssuer(tmp_path)  # makes a key of its own; the token names the stack's
    forged = caller.token(caller.claims(), key=(tmp_path / "oidc-key.pem").read_bytes())
    assert caller.status(f"Bearer {forged}") == 401


def test_a_token_that_was_changed_or_is_not_signed_is_refused(caller: Caller) -> None:
    header, _, signature = caller.token(caller.claims(aud="x")).split(".")
    changed = _part(caller.claims())
    assert caller.status(f"Bearer {header}.{changed}.{signature}") == 401
    for algorithm in ("none", "HS256"):
        unsigned = f"{_part({'alg': algorithm, 'typ': 'JWT', 'kid': 'x'})}.{changed}."
        assert caller.status(f"Bearer {unsigned}") == 401


def test_no_token_or_something_else_is_refused(caller: Caller) -> None:
    good = caller.token(caller.claims())
    for authorization in (None, "Bearer", "Bearer x", f"Basic {good}", good, "Bearer a.b.c"):
        assert caller.status(authorization) == 401, authorization


def _part(document: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
