"""Digest authentication: RFC 7616's own examples, and when a challenge or a secret is over."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.deadline import Deadline
from nsps.transport.digest import Challenge, DigestHttp
from nsps.transport.http import Answer, Http
from nsps_testing.faults import Reply, ScriptedHttp, Seen

USER, PASSWORD = "Mufasa", "Circle of Life"
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


def challenge(header: str) -> Challenge | None:
    return Challenge.of(Answer(401, {"www-authenticate": header}, b""))


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_the_rfc(algorithm: str, response: str) -> None:
    asked = challenge(
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        f'nonce="{NONCE}", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    assert asked is not None
    shown = asked.met(USER, PASSWORD, "GET", "/dir/index.html", CNONCE)
    assert f'response="{response}"' in shown and "nc=00000001" in shown
    assert "nc=00000002" in asked.met(USER, PASSWORD, "GET", "/dir/index.html", CNONCE)


def test_a_challenge_of_the_old_kind() -> None:
    asked = challenge('Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c0"')
    assert asked is not None
    shown = asked.met(USER, PASSWORD, "GET", "/dir/index.html", CNONCE)
    assert "nc=" not in shown and "cnonce" not in shown and "opaque" not in shown


@pytest.mark.parametrize(
    ("header", "nonce"),
    [
        ('Basic realm="tv", Digest realm="tv", qop="auth", nonce="n1"', "n1"),
        ('Digest realm="tv", nonce="n1", algorithm=SHA-512-256, Basic realm="tv"', "n1"),
        ('digest nonce="old", algorithm=token, Digest nonce="n2"', "n2"),
        ('Basic realm="tv"', None),
        ('Digest nonce="n1", qop="auth-int"', None),
        ('Digest realm="tv"', None),
        ("", None),
    ],
)
def test_which_challenge_can_be_met(header: str, nonce: str | None) -> None:
    found = challenge(header)
    assert (found.nonce if found else None) == nonce


def client(*secrets: str) -> DigestHttp:
    """With a secret that is another when it is read again."""
    values = [SecretValue(each) for each in secrets]
    return DigestHttp(Http(), lambda: values[0], lambda: values[-1])


class Door:
    """Lets in whoever proves to be ``user`` with the nonce of now."""

    def __init__(self) -> None:
        self.nonce, self.refusal = "n1", 401

    def __call__(self, request: Seen) -> Reply:
        shown = request.headers.get("Authorization", "")
        if f'nonce="{self.nonce}"' not in shown:
            header = {"WWW-Authenticate": f'Digest realm="tv", qop="auth", nonce="{self.nonce}"'}
            return Reply(401, "", headers=header)
        assert f'uri="{request.path}"' in shown
        return Reply(200, {}) if 'username="new"' in shown else Reply(self.refusal, "")


def status(made: DigestHttp, url: str) -> int:
    return made.request("GET", f"{url}/api", deadline=Deadline(5), params={"q": "a b"}).status


def test_a_challenge_is_used_until_it_is_over() -> None:
    door = Door()
    with ScriptedHttp(door) as system:
        made = client("new:secret")
        assert [status(made, system.url) for _ in range(2)] == [200, 200]
        assert len(system.requests) == 3
        door.nonce = "n2"
        assert status(made, system.url) == 200
        assert len(system.requests) == 5
        assert urlsplit(system.requests[-1].path).query == "q=a+b"


def test_a_query_is_added_to_that_of_the_address() -> None:
    with ScriptedHttp(Door()) as system:
        made, params = client("new:secret"), {"q": "a b", "none": None}
        made.request("GET", f"{system.url}/api?v=1", deadline=Deadline(5), params=params)
        assert [each.path for each in system.requests] == ["/api?v=1&q=a+b"] * 2


@pytest.mark.parametrize("address", ["nonsense hunter2", "ftp://user:hunter2@tv.example"])
def test_what_is_no_web_address_is_said_without_its_credentials(address: str) -> None:
    with pytest.raises(Transient, match="not a web address") as refused:
        client("new:secret").request("GET", address, deadline=Deadline(5))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("refusal", [401, 403])
def test_a_refused_secret_is_read_again(refusal: int) -> None:
    door = Door()
    door.refusal = refusal
    with ScriptedHttp(door) as system:
        assert status(client("old:secret", "new:secret"), system.url) == 200
        assert status(client("old:secret"), system.url) == refusal


def test_a_server_that_asks_for_no_digest_is_shown_no_user() -> None:
    with ScriptedHttp(Reply(401, "", headers={"WWW-Authenticate": "Basic"})) as system:
        assert status(client("new:secret"), system.url) == 401
        assert all("Authorization" not in each.headers for each in system.requests)


def test_a_secret_that_is_no_user_and_password() -> None:
    with ScriptedHttp(Door()) as system, pytest.raises(Transient, match="USER:PASSWORD"):
        status(client("secret"), system.url)
