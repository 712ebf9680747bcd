"""Secrets in other clothes: cut in the middle, below the first level, as Basic authentication."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st
from nsps.runtime.redact import HIDDEN, MAX_TEXT, Redactor, shortened
from nsps.runtime.secrets import SecretValue

TOKEN = "Zq3-x_9.aa~B/c+d=Cn4ry"
KI = "465B5CE8B199B49FAA5F0A2EE238A6BC"


@given(st.integers(0, 120))
def test_a_text_is_never_cut_in_the_middle_of_a_secret(limit: int) -> None:
    text = f"the token {TOKEN} and the key '{KI}' are refused"
    kept = shortened(text, limit)
    assert len(kept) <= limit and text.startswith(kept)
    for secret in (TOKEN, KI):
        assert secret in kept or not any(secret[:n] in kept for n in range(4, len(secret)))


def test_the_redactor_cuts_long_texts_so_too() -> None:
    redactor = Redactor(b"k")
    redactor.register(SecretValue(TOKEN))
    for before in range(MAX_TEXT - len(TOKEN) - 2, MAX_TEXT + 2):
        shown = redactor.text_for_store("." * (before - 1) + " " + TOKEN + " x" * 20)
        assert TOKEN[:6] not in shown
        assert shown.endswith("... (cut)")


def test_a_short_text_stays_as_it_is() -> None:
    assert shortened("HTTP 503", 300) == "HTTP 503"


def test_the_keys_in_a_table_of_sim_cards_are_known_by_value() -> None:
    redactor = Redactor(b"k")
    table = {"001010000000001": {"ki": "short-ki", "opc": None, "algorithm": "milenage"}}
    redactor.register(SecretValue(json.dumps(table)))
    said = "short-ki with milenage for 001010000000001"
    assert redactor.text_for_store(said) == f"{HIDDEN} with milenage for 001010000000001"


def test_what_basic_authentication_makes_of_a_credential_is_known() -> None:
    redactor = Redactor(b"k")
    redactor.register(SecretValue('{"user": "espf", "password": "pass-w0rd"}'))
    redactor.register(SecretValue("oms:t0p-secret"))
    for pair in (b"espf:pass-w0rd", b"oms:t0p-secret"):
        coded = base64.b64encode(pair).decode()
        assert redactor.text_for_store(f"header {coded} refused") == f"header {HIDDEN} refused"


def test_half_a_character_is_replaced_and_raises_nothing() -> None:
    redactor = Redactor(b"k")
    half = json.loads('{"a": "Ann \\ud83d", "firstname": "Bo\\udc00", "\\ud83d": 1}')
    assert redactor.for_store(half) == {"a": "Ann ?", "firstname": "Bo?", "?": 1}
    json.dumps(redactor.for_log(half), ensure_ascii=False).encode()
    whole = "Ann \U0001f600 Ö"
    assert redactor.text_for_store(whole) == whole
