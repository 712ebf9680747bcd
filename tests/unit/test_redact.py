"""Secrets reach nobody and subscribers no log, wherever they stand."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nsps.runtime import redact
from nsps.runtime.redact import HIDDEN, Redactor
from nsps.runtime.secrets import SecretValue

REDACTOR = Redactor(b"a key of this test, 32 bytes long")
SECRET = "CANARYsecret7f"
NAME = "CANARYperson7f"

SECRET_FIELDS = (
    "ki", "Ki", "OPc", "op", "k", "auth_key", "password", "h323_password", "new-password",
    "token", "access_token", "pin", "PUK1", "Authorization", "Set-Cookie", "client_secret",
    "credentials", "api_key", "service_password", "session_id",
)  # fmt: skip
PERSONAL_FIELDS = (
    "imsi", "prev_imsi", "MSISDN", "iccid", "phone1", "email", "firstname", "lastname",
    "address", "baddr1", "zip", "id", "number", "login",
)  # fmt: skip

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text("abcdef xyz_-.,", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("uvwxyz", max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def planted(draw: Any, fields: tuple[str, ...], canary: str) -> Any:
    """A document with the canary under one of the fields, at any depth, maybe as JSON in a text."""
    value: Any = draw(st.sampled_from([canary, [canary], {"x": canary}, [{"y": [canary]}]]))
    field = draw(st.sampled_from(fields))
    document: Any = draw(
        st.sampled_from(
            [
                {field: value},
                {"name": field, "value": canary},
                {"attribute": field, "values": [canary]},
            ]
        )
    )
    for _ in range(draw(st.integers(0, 5))):
        wrap = draw(st.integers(0, 4))
        if wrap == 0:
            document = {draw(st.sampled_from(["data", "pb_data", "x"])): document, "o": draw(plain)}
        elif wrap == 1:
            document = [draw(plain), document]
        elif wrap == 2:
            document = json.dumps(document)
        elif wrap == 3:
            document = "HTTP 500 from system: " + json.dumps(document) + " (code 7)"
        else:
            document = {"text": "bad request " + str(document)}
    return document


@given(planted(SECRET_FIELDS, SECRET))
def test_a_planted_secret_never_survives(document: Any) -> None:
    assert SECRET not in json.dumps(REDACTOR.for_log(document))
    assert SECRET not in json.dumps(REDACTOR.for_store(document))


@given(planted(PERSONAL_FIELDS, NAME))
def test_a_planted_person_is_never_in_a_log_but_stays_in_the_store(document: Any) -> None:
    assert NAME not in json.dumps(REDACTOR.for_log(document))
    assert NAME in json.dumps(REDACTOR.for_store(document))


@pytest.mark.parametrize("field", SECRET_FIELDS)
@pytest.mark.parametrize(
    "text",
    [
        "{f}={v}", "{f}: {v}", "{f} = '{v}' refused", '"{f}": "{v}"', '\\"{f}\\": \\"{v}\\"',
        "{{'{f}': '{v}'}}", "{{'{f}': ('{v}', 1)}}", "<{f}>{v}</{f}>", '<a {f}="{v}"/>',
        "<s:{f} x='1'>{v}</s:{f}>", "?a=1&{f}={v}&b=2", "{f}=>{v}", "{f}: [{v}, {v}]",
        "said {{not json, {f}: {{deep: {v}",
    ],
)  # fmt: skip
def test_a_secret_is_taken_out_of_free_text(field: str, text: str) -> None:
    written = text.format(f=field, v=SECRET)
    assert SECRET not in REDACTOR.text_for_log(written)
    assert SECRET not in REDACTOR.text_for_store(written)


@pytest.mark.parametrize(
    "secret",
    [
        "465B5CE8B199B49FAA5F0A2EE238A6BC",
        "0x465b5ce8b199b49faa5f0a2ee238a6bc",
        "46 5b 5c e8 b1 99 b4 9f aa 5f 0a 2e e2 38 a6 bc",
        "Bearer abc.DEF-123",
        "Basic dXNlcjpwYXNz",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
    ],
)
def test_secrets_are_known_by_their_shape(secret: str) -> None:
    for clean in (REDACTOR.text_for_log, REDACTOR.text_for_store):
        assert clean(f"cannot use {secret} here") == f"cannot use {HIDDEN} here"


@given(st.integers(10**5, 10**22 - 1).map(str))
def test_a_run_of_digits_is_masked_in_a_log(digits: str) -> None:
    shown = REDACTOR.text_for_log(f"no subscriber {digits}.")
    assert digits not in shown
    assert digits in REDACTOR.text_for_store(f"no subscriber {digits}.") or len(digits) < 6


@pytest.mark.parametrize(
    "kept",
    [
        "3f2c1f6e-0d6a-5b1e-8a3b-123456789012",
        "2026-11-21T02:10:03.123456Z",
        "2026-11-21T02:10:03.123456+00:00",
        "account:1000889",
        "i_account=277147",
        "HTTP 503 in 12345 ms",
    ],
)
def test_our_own_ids_and_times_stay_readable(kept: str) -> None:
    assert REDACTOR.text_for_log(kept) == kept
    assert REDACTOR.for_log({"x": kept}) == {"x": kept}


def test_a_number_has_one_hash_wherever_it_stands() -> None:
    number = "79123456789"
    shown = json.dumps(
        REDACTOR.for_log(
            {
                "sim_info": {"msisdn": number},
                "number": int(number),
                "error": f"unknown +{number}",
                "t": f'{{"phone1": "{number}"}}',
            }
        )
    )
    hashes = {part[:12] for part in shown.split("#")[1:]}
    assert len(hashes) == 1
    assert hashes != {Redactor(b"another").for_log({"msisdn": number})["msisdn"].partition("#")[2]}


def test_prose_after_a_field_s_name_stays_readable() -> None:
    prose = "the system refused the MSISDN: tried again later"
    assert REDACTOR.text_for_log(prose) == prose
    assert "447700900001" not in REDACTOR.text_for_log("the MSISDN: 447700900001")
    assert "alice" not in REDACTOR.text_for_log("msisdn=alice") + REDACTOR.text_for_log(
        '{"msisdn": "alice"}'
    )


def test_masking_twice_changes_nothing() -> None:
    once = REDACTOR.for_log({"imsi": "250011234567890", "ki": "x", "text": "imsi=250011234567890"})
    assert REDACTOR.for_log(once) == once


def test_registered_secrets_are_found_by_value_in_every_form() -> None:
    redactor = Redactor(b"k")
    redactor.register(SecretValue('{"user": "porta", "password": "s3c/ret \\"q"}'))
    for form in ('s3c/ret "q', "s3c%2Fret%20%22q", 's3c/ret \\"q'):
        assert redactor.text_for_store(f"login {form} failed") == f"login {HIDDEN} failed"
    assert redactor.text_for_log("porta") == "porta"


def test_known_values_are_taken_out_of_what_a_system_echoes() -> None:
    known = {
        "account_info": {"firstname": "Ann", "lastname": "O'Neil", "h323_password": "sesame"},
        "customer_info": {"name": "Acme Telecom"},
    }
    echoed = "cannot create ANN O'Neil of Acme Telecom (sesame); Annual plan"
    with REDACTOR.knowing(known):
        shown = REDACTOR.text_for_log(echoed)
        assert not any(word in shown for word in ("ANN ", "Neil", "Acme", "sesame"))
        assert shown.endswith("Annual plan")
        assert REDACTOR.text_for_store(echoed) == echoed.replace("sesame", HIDDEN)
    assert "sesame" in REDACTOR.text_for_log(echoed)


@pytest.mark.parametrize(
    ("known", "echoed"),
    [("Müller", "MÜLLER"), ("İpek", "ipek"), ("Smith", "\u017fmith"), ("Σοφός", "σοφόσ")],
)
def test_known_values_are_found_in_any_case_of_any_script(known: str, echoed: str) -> None:
    with REDACTOR.knowing({"firstname": known}):
        assert echoed not in REDACTOR.text_for_log(f"cannot create {echoed} here")


PIECES = (
    "Ki", "ki=", "token", "Bearer ", "basic", "a1b2" * 4, "-----BEGIN PRIVATE KEY-----", "eyJ",
    "eyJabcdefgh.ab", "46 5b", "://", "u:p@h", "<ki>", "</", "{", '{"ki": 1}', "[", "+4477", "1234",
    "123456", "a1b2" * 9, "\u0661" * 6, " ", "=", ":", "Ann", "x.y", "ba\u017fic ", "\u212a",
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.booleans())
def test_the_short_way_for_short_texts_changes_nothing(text: str, personal: bool) -> None:
    short = REDACTOR._text(text, personal=personal)
    with mock.patch.object(redact, "_SHORT", 0):
        assert short == REDACTOR._text(text, personal=personal)


@pytest.mark.parametrize(
    "document",
    [
        {"value": SECRET, "name": "ki"},
        {"secrets": [{"a": SECRET}, [SECRET]]},
        {"customer_info": {"name": SECRET}},
    ],
)
def test_json_inside_a_text_is_read_as_json(document: Any) -> None:
    text = f"HTTP 400 {{oops}} answered {json.dumps(document)} to {json.dumps([document])}"
    assert SECRET not in REDACTOR.text_for_log(text)


def test_what_a_product_is_called_stays_readable() -> None:
    document = {"product_info": {"name": "Big data", "i_product": 12}, "i_account": 1234567890}
    assert REDACTOR.for_log(document) == document


@given(st.text(max_size=400))
@example("[" * 5000)
@example('{"a":' * 3000)
@example("\\" * 3000 + '"k"')
@example("k=" * 5000)
@example("<a" * 5000)
@example("a@" * 5000)
@example("+1 " * 5000)
def test_any_text_can_be_redacted(text: str) -> None:
    for clean in (REDACTOR.text_for_log, REDACTOR.text_for_store):
        assert isinstance(clean(text), str)


@given(plain)
def test_what_holds_nothing_private_is_not_changed(document: Any) -> None:
    assert REDACTOR.for_store(document) == document


def test_digest_is_keyed_and_of_the_content_alone() -> None:
    one = REDACTOR.digest({"a": 1, "b": ["x"]})
    assert one == REDACTOR.digest({"b": ["x"], "a": 1})
    assert one != REDACTOR.digest({"a": 1, "b": ["y"]})
    assert one != Redactor(b"other").digest({"a": 1, "b": ["x"]})
    assert len(one) == 64
