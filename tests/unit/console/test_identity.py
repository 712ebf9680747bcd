"""Who asks: only a token that Google signed for this console, and only in the role it has."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import crypt, jwt
from nsps.console.identity import IAP_HEADER, Identity, NotAllowed, Role
from nsps.runtime.settings import ConsoleSettings
from nsps.transport.http import Http
from nsps_local.pubsub.oidc import TokenIssuer

AUDIENCE = "https://console.acme.example"
IAP_AUDIENCE = "/projects/1/locations/europe-west3/services/acme-console"
IAP = "https://cloud.google.com/iap"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PEM = EC_KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.NoEncryption(),
)
PUBLIC = EC_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> TokenIssuer:
    folder: Path = tmp_path_factory.mktemp("issuer")
    return TokenIssuer(folder)


@pytest.fixture(scope="module")
def identity(issuer: TokenIssuer) -> Iterator[Identity]:
    documents = {"/certs": issuer.certs, "/iap": {"iap-1": PUBLIC.decode()}}

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(documents[self.path]).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    settings = ConsoleSettings(
        audiences=(AUDIENCE, "gcloud"),
        roles={
            "viewer": ("domain:acme.example",),
            "operator": ("Ops@acme.example",),
            "admin": ("boss@acme.example",),
        },
        interception=("Ann@acme.example",),
        iap_audience=IAP_AUDIENCE,
        certs_url=f"{url}/certs",
        iap_certs_url=f"{url}/iap",
    )
    yield Identity(settings, Http())
    server.shutdown()
    server.server_close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def assertion(**claims: Any) -> str:
    now = int(time.time())
    said = {
        "iss": IAP,
        "aud": IAP_AUDIENCE,
        "email": "ops@acme.example",
        "iat": now,
        "exp": now + 600,
        **claims,
    }
    signer = crypt.EsSigner.from_string(PEM.decode(), "iap-1")
    return str(jwt.encode(signer, said), "ascii")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("email", "role"),
    [
        ("boss@acme.example", Role.admin),
        ("ops@acme.example", Role.operator),
        ("ann@acme.example", Role.viewer),
    ],
)
def test_the_highest_role_counts(
    identity: Identity, issuer: TokenIssuer, email: str, role: Role
) -> None:
    person = identity.who(bearer(issuer.token(email, AUDIENCE)))
    assert (person.email, person.role) == (email, role)
    assert person.interception is (email == "ann@acme.example"), "no role includes it"
    assert identity.who(bearer(issuer.token(email, "gcloud"))).role == role


def test_behind_the_proxy_its_assertion_counts(identity: Identity) -> None:
    assert identity.who({IAP_HEADER: assertion()}).role is Role.operator


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "/projects/2/elsewhere"},
        {"iss": "https://accounts.google.com"},
        {"exp": 1_000_000, "iat": 999_000},
        {"email": None},
    ],
)
def test_assertions_that_are_not_for_us(identity: Identity, claims: dict[str, Any]) -> None:
    with pytest.raises(NotAllowed) as refused:
        identity.who({IAP_HEADER: assertion(**claims)})
    assert refused.value.status == 401


def test_nobody_strangers_and_forgeries(
    identity: Identity, issuer: TokenIssuer, tmp_path: Path
) -> None:
    forged = TokenIssuer(tmp_path).token("boss@acme.example", AUDIENCE)
    cases: list[tuple[Mapping[str, str], int]] = [
        ({}, 401),
        ({"authorization": "Basic YTpi"}, 401),
        (bearer("x.y.z"), 401),
        (bearer(forged), 401),
        (bearer(issuer.token("boss@acme.example", "https://elsewhere")), 401),
        (bearer(assertion()), 401),  # an assertion is no token
        ({IAP_HEADER: issuer.token("boss@acme.example", IAP_AUDIENCE)}, 401),
        (bearer(issuer.token("ops@evil.example", AUDIENCE)), 403),
    ]
    for headers, status in cases:
        with pytest.raises(NotAllowed) as refused:
            identity.who(headers)
        assert refused.value.status == status, headers
        assert "push" not in str(refused.value)
