"""Who may push: real signatures, real certificates over HTTP, and every way to be refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from hypothesis import given
from hypothesis import strategies as st
from nsps.cloud.push import PushGuard, PushRefused
from nsps.runtime.settings import PushSettings
from nsps.transport.http import Http

AUDIENCE = "https://enrichment.example"
ACCOUNT = "invoker@demo.iam.gserviceaccount.com"


class Key:
    def __init__(self, kid: str) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.kid = kid
        self.public = (
            key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )
        self.signer = crypt.RSASigner.from_string(  # type: ignore[no-untyped-call]
            private.decode(), kid
        )

    def token(self, header: dict[str, str] | None = None, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": AUDIENCE,
            "email": ACCOUNT,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        given_claims = {k: v for k, v in (claims | changes).items() if v is not None}
        made = jwt.encode(self.signer, given_claims, header or {})  # type: ignore[no-untyped-call]
        return str(made.decode())


ONE, TWO, FORGER = Key("one"), Key("two"), Key("one")


class Issuer:
    def __init__(self) -> None:
        self.keys = [ONE]
        self.status = 200
        self.body: bytes | None = None
        self.fetched = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetched += 1
                body = issuer.body or json.dumps({k.kid: k.public for k in issuer.keys}).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/certs"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    held = Issuer()
    yield held
    held.server.shutdown()
    held.server.server_close()


def guard_of(issuer: Issuer, clock: Clock | None = None) -> PushGuard:
    settings = PushSettings(audience=AUDIENCE, service_account=ACCOUNT, certs_url=issuer.url)
    return PushGuard(settings, Http(), clock or Clock())


def status(guard: PushGuard, token: str) -> int:
    try:
        guard.check({"authorization": f"Bearer {token}"})
    except PushRefused as refused:
        assert token not in str(refused)
        return refused.status
    return 200


def test_a_true_token_is_let_in_and_certificates_are_fetched_once(issuer: Issuer) -> None:
    guard = guard_of(issuer)
    for _ in range(5):
        guard.check({"authorization": f"Bearer {ONE.token()}"})
        guard.check({"authorization": f"bearer {ONE.token(iss='accounts.google.com')}"})
    assert issuer.fetched == 1


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (403, {"aud": "https://another.example"}),
        (403, {"aud": None}),
        (403, {"aud": [AUDIENCE]}),
        (403, {"email": "someone@else.example"}),
        (403, {"email": None}),
        (403, {"email_verified": False}),
        (403, {"email_verified": "true"}),
        (401, {"iss": "https://evil.example"}),
        (401, {"exp": -60}),
        (401, {"exp": None}),
        (401, {"exp": "soon"}),
        (401, {"iat": 600}),
    ],
)
def test_every_claim_counts(issuer: Issuer, expected: int, changes: dict[str, Any]) -> None:
    now = int(time.time())  # not when the tests were collected: a whole run takes a while
    changes = {
        name: now + value if isinstance(value, int) and name in ("exp", "iat") else value
        for name, value in changes.items()
    }
    assert status(guard_of(issuer), ONE.token(**changes)) == expected


def test_forged_and_foreign_tokens(issuer: Issuer) -> None:
    guard = guard_of(issuer)
    assert status(guard, FORGER.token()) == 401
    assert status(guard, TWO.token()) == 401
    assert status(guard, ONE.token({"alg": "none"})) == 401
    assert status(guard, ONE.token({"alg": "HS256"})) == 401
    head, claims, signature = ONE.token().split(".")
    assert status(guard, f"{head}.{claims}.") == 401
    assert status(guard, f"{head}.{ONE.token(aud='x').split('.')[1]}.{signature}") == 401
    for header in ({}, {"authorization": "Basic dTpw"}, {"authorization": "Bearer "}):
        with pytest.raises(PushRefused) as raised:
            guard.check(header)
        assert raised.value.status == 401


@given(
    st.text(max_size=60) | st.lists(st.text("abcAZ09_-=", max_size=12), max_size=4).map(".".join)
)
def test_any_token_is_survived(token: str) -> None:
    settings = PushSettings(audience="a", service_account="b", certs_url="http://127.0.0.1:1/")
    with pytest.raises(PushRefused):
        PushGuard(settings, Http()).check({"authorization": f"Bearer {token}"})


def test_a_new_key_is_fetched_at_most_every_ten_seconds(issuer: Issuer) -> None:
    clock = Clock()
    guard = guard_of(issuer, clock)
    assert status(guard, ONE.token()) == 200
    issuer.keys.append(TWO)
    assert [status(guard, TWO.token()) for _ in range(3)] == [401] * 3
    assert issuer.fetched == 1
    clock.now += 10
    assert [status(guard, TWO.token()) for _ in range(3)] == [200] * 3
    assert issuer.fetched == 2


def test_certificates_are_fetched_anew_after_an_hour(issuer: Issuer) -> None:
    clock = Clock()
    guard = guard_of(issuer, clock)
    assert status(guard, ONE.token()) == 200
    issuer.keys = [TWO]
    clock.now += 3600
    assert status(guard, ONE.token()) == 401
    assert issuer.fetched == 2


@pytest.mark.parametrize("body", [b"[]", b"{}", b"<html>", b"\xff"])
def test_without_certificates_the_answer_is_503_until_they_are_back(
    issuer: Issuer, body: bytes
) -> None:
    clock = Clock()
    guard = guard_of(issuer, clock)
    issuer.body = body
    assert status(guard, ONE.token()) == 503
    issuer.body, issuer.status = None, 500
    clock.now += 10
    assert status(guard, ONE.token()) == 503
    issuer.status = 200
    assert status(guard, ONE.token()) == 503, "asked again only after ten seconds"
    clock.now += 10
    assert status(guard, ONE.token()) == 200


@pytest.mark.parametrize(("lives", "believed"), [(3600, 60), (30, 30), (-5, 0)])
def test_a_verified_token_is_looked_at_again_within_a_minute_and_when_it_expires(
    issuer: Issuer, lives: int, believed: int
) -> None:
    clock = Clock()
    guard = guard_of(issuer, clock)
    token = ONE.token(exp=int(time.time()) + lives)
    tokens = guard._tokens
    with mock.patch.object(tokens, "_verified", wraps=tokens._verified) as verified:
        assert status(guard, token) == 200
        clock.now += max(believed - 2, 0)
        assert status(guard, token) == 200
        assert verified.call_count == (1 if believed else 2)
        clock.now += 2
        assert status(guard, token) == 200
        assert verified.call_count == (2 if believed else 3)
