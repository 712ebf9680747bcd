"""Basic, Custom and Signature: what ESPF shows, two credentials at once, and hostile headers."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.espf.webhook_auth import (
    BasicCredential,
    Credential,
    CustomCredential,
    InvalidCredential,
    Match,
    SignatureCredential,
    credential,
    verify,
)

NOW = datetime(2026, 11, 21, 2, 10, 3, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)


def basic(user: str, password: str, charset: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(charset)).decode()


def signature(text: str, key: str = "key", key_id: str = "test", **more: str) -> str:
    algorithm = more.get("algorithm", "hmac-sha1")
    digest = getattr(hashlib, algorithm.lower().rpartition("-")[2], hashlib.sha1)
    value = base64.b64encode(hmac.new(key.encode(), text.encode(), digest).digest()).decode()
    parameters = {"keyId": key_id, "algorithm": algorithm, **more, "signature": value}
    return "Signature " + ",".join(f'{name}="{item}"' for name, item in parameters.items())


def shown(header: str, *known: Credential, date: str = DATE, **headers: str) -> Match | None:
    return verify({"authorization": header, "date": date, **headers}, known, now=NOW)


def test_basic_with_two_live_credentials() -> None:
    old, new = BasicCredential("espf", "old:secret"), BasicCredential("espf", "new")
    assert shown(basic("espf", "old:secret"), old, new) == Match(0, "utf-8")
    assert shown(basic("espf", "new"), old, new) == Match(1, "utf-8")
    assert shown("basic " + basic("espf", "new")[6:], old, new) == Match(1, "utf-8")
    for wrong in (
        basic("espf", "older"),
        basic("other", "new"),
        basic("", ""),
        "Basic",
        "",
        "Basic %",
    ):
        assert shown(wrong, old, new) is None


def test_passwords_with_letters_beyond_ascii() -> None:
    latin, cyrillic = BasicCredential("espf", "mañana"), BasicCredential("espf", "тайна")
    assert shown(basic("espf", "mañana"), latin) == Match(0, "utf-8")
    assert shown(basic("espf", "mañana", "latin-1"), latin) == Match(0, "latin-1")
    assert shown(basic("espf", "тайна"), cyrillic) == Match(0, "utf-8")
    assert shown(basic("espf", "?????"), cyrillic) is None


def test_custom_is_compared_literally() -> None:
    known = CustomCredential("Plain", "passexample")
    assert shown("Plain passexample", known) == Match(0, "utf-8")
    assert shown("Bearer t0ken", CustomCredential("Bearer", "t0ken")) is not None
    assert shown("raw", CustomCredential("", "raw")) is not None
    for wrong in ("plain passexample", "Plain passexampl", "Plain", "passexample", ""):
        assert shown(wrong, known) is None


@pytest.mark.parametrize(
    ("header", "reading"),
    [
        (signature(DATE), "<date>"),
        (signature(f"date: {DATE}"), "date: <date>"),
        (signature(f"date: {DATE}", headers="Date"), "date: <date>"),
        (signature(f"date: {DATE}", algorithm="HMAC-SHA256"), "date: <date>"),
        (signature(DATE, algorithm="hs2019"), "<date>"),
        (signature(f"host: nsps\ndate: {DATE}", headers="host date"), "headers"),
        (
            signature(f"(request-target): post /a\ndate: {DATE}", headers="(request-target) date"),
            "headers",
        ),
    ],
)
def test_signature_readings(header: str, reading: str) -> None:
    known = SignatureCredential("test", "key")
    given_headers = {"authorization": header, "date": DATE, "host": "nsps"}
    found = verify(given_headers, [known], now=NOW, request_target="post /a")
    assert found == Match(0, reading)
    assert verify(given_headers, [SignatureCredential("test", "k2"), known], now=NOW) in (
        Match(1, reading),
        None if "(request-target)" in header else Match(1, reading),
    )


@pytest.mark.parametrize(
    "header",
    [
        signature(DATE, key="other"),
        signature(DATE, key_id="other"),
        signature(DATE, algorithm="none"),
        signature(DATE, algorithm="md5"),
        signature("host: nsps", headers="host"),
        signature(DATE, headers="date"),
        signature(DATE).replace("signature=", "sig="),
        signature(DATE).replace('"', ""),
        'Signature keyId="test",algorithm="hmac-sha1",signature=""',
        "Signature " + ",".join(['a="b"'] * 500),
    ],
)
def test_signatures_that_prove_nothing(header: str) -> None:
    # Without quotes a signature is still readable: only its value decides.
    found = shown(header, SignatureCredential("test", "key"))
    assert found is None or 'keyId="' not in header


@pytest.mark.parametrize("seconds", [-899, 0, 899])
def test_a_date_inside_the_window(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert shown(signature(date), SignatureCredential("test", "key"), date=date) is not None


@pytest.mark.parametrize("seconds", [-901, 901, 10**9, -(10**9)])
def test_a_date_outside_the_window(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert shown(signature(date), SignatureCredential("test", "key"), date=date) is None


def test_another_header_name() -> None:
    known = BasicCredential("espf", "pw")
    headers = {"x-espf-auth": basic("espf", "pw"), "authorization": "Bearer of-another"}
    assert verify(headers, [known], header="X-ESPF-Auth", now=NOW) is not None
    assert verify(headers, [known], now=NOW) is None


def test_credentials_from_secrets() -> None:
    assert credential("basic", {"user": "u", "password": "p"}) == BasicCredential("u", "p")
    assert credential("custom", {"type": "", "credentials": "c"}) == CustomCredential("", "c")
    made = credential("signature", {"key_id": "i", "key": "hunter2"})
    assert "hunter2" not in repr(made)
    for method, secret in (
        ("basic", {"user": "u"}),
        ("basic", {"user": "u", "password": ""}),
        ("custom", {"type": "t", "credentials": 7}),
        ("signature", {}),
        ("digest", {}),
    ):
        with pytest.raises(InvalidCredential):
            credential(method, secret)


KNOWN: list[list[Credential]] = [
    [BasicCredential("u", "password")],
    [CustomCredential("t", "credentials")],
    [SignatureCredential("i", "a key"), SignatureCredential("i", "another")],
]
wire = st.text(st.characters(max_codepoint=255), max_size=80)
hostile = st.builds(
    str.__add__, st.sampled_from(["", "Basic ", "Signature ", 'Signature keyId="i",']), wire
)


@given(hostile, wire, st.sampled_from(KNOWN))
def test_hostile_headers_are_refused_and_never_crash(
    header: str, date: str, known: list[Credential]
) -> None:
    assert shown(header, *known, date=date) is None
    assert shown(header, *known) is None


@given(st.datetimes(), st.sampled_from(["-0000", "GMT", "+9999", "-2359", ""]))
def test_any_date_is_survived(moment: datetime, zone: str) -> None:
    date = f"{moment:%a, %d %b %Y %H:%M:%S} {zone}"
    shown(signature(date), SignatureCredential("test", "key"), date=date)


def test_without_live_credentials_nobody_comes_in() -> None:
    assert shown(basic("", "")) is None
