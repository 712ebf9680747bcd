"""What an event is: reading a webhook, its identity, its owner."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.event import EspfEvent, InvalidWebhook, Owner, event_id, owner_of, parse_webhook

scalars = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"event_type": "SIM/Updated", "variables": {"x": NaN}}', "not JSON"),
        (b'{"event_type": "SIM/Updated", "variables": {"x": -Infinity}}', "Infinity is no number"),
        (b'{"event_type": "SIM/Updated", "variables": {"x": 1e400}}', "beyond 1.8e308"),
        (b'{"event_type": "SIM/Updated", "variables": {"x": -1.5E999}}', "beyond 1.8e308"),
        (b'{"event_type": "SIM/Updated", "variables": {"x": %s}}' % (b"7" * 5000), "digits"),
        (b"[" * 100_000, "nested deeper than 50"),
        (b'{"event_type": "E/X", "variables": %s1%s}' % (b'{"x":' * 50, b"}" * 50), "deeper"),
        (b"[]", "not a JSON object"),
        (b"{}", "event_type is missing"),
        (b'{"event_type": 5}', "event_type is missing"),
        (b'{"event_type": " "}', "event_type is missing"),
        (b'{"event_type": "SIM/Updated", "variables": [1]}', "variables is not"),
    ],
)
def test_a_body_that_can_never_work_is_named(body: bytes, what: str) -> None:
    with pytest.raises(InvalidWebhook, match=what):
        parse_webhook(body)


def test_variables_are_optional_and_stay_as_they_are() -> None:
    assert parse_webhook(b'{"event_type": "SIM/Updated"}') == EspfEvent("SIM/Updated", {})
    variables = {"i_event": "5", "curr_status": "used", "nested": {"a": [1]}}
    body = json.dumps({"event_type": "SIM/Updated", "variables": variables}).encode()
    assert parse_webhook(body).variables == variables


def test_what_is_accepted_can_be_written_again() -> None:
    deepest = b'{"x":' * 49 + b"89445012345678901234" + b"}" * 49
    body = b'{"event_type": "SIM/\\ud83d", "variables": {"iccid": 89445012345678901234, "d": %s}}'
    event = parse_webhook(body % deepest[5:-1])
    assert event.event_type == "SIM/?"  # half of a character, which nothing can store
    assert event.variables["iccid"] == 89445012345678901234
    assert parse_webhook(json.dumps(event.body()).encode()) == event


@given(documents)
def test_any_document_is_read_or_refused(document: Any) -> None:
    body = json.dumps(document).encode()
    try:
        event = parse_webhook(body)
    except InvalidWebhook:
        return
    assert event.event_type
    assert event_id("d", event) == event_id("d", parse_webhook(body))
    assert str(Owner.parse(str(owner_of(event, "x")))) == str(owner_of(event, "x"))


def test_ids_are_numbers_or_numeric_strings() -> None:
    number = EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": 9})
    text = EspfEvent("SIM/Updated", {"i_event": "7", "i_env": "1", "i_account": "9"})
    assert event_id("d", number) == event_id("d", text)
    assert owner_of(number, "x") == owner_of(text, "x") == Owner("account", "9")


@pytest.mark.parametrize(
    ("deployment", "event"),
    [
        ("other", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1})),
        ("d", EspfEvent("SIM/Deleted", {"i_event": 7, "i_env": 1})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 8, "i_env": 1})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 2})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7})),
    ],
)
def test_deployment_environment_event_and_type_make_the_identity(
    deployment: str, event: EspfEvent
) -> None:
    one = event_id("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "event_time": "x"}))
    assert one == event_id("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1}))
    assert one != event_id(deployment, event)


def test_an_event_without_i_event_is_known_by_its_content() -> None:
    one = EspfEvent("SIM/Updated", {"i_account": 1, "x": "y"})
    same = EspfEvent("SIM/Updated", {"x": "y", "i_account": 1})
    assert event_id("d", one) == event_id("d", same)
    assert event_id("d", one) != event_id("d", EspfEvent("SIM/Updated", {"i_account": 1}))


@pytest.mark.parametrize(
    ("variables", "owner"),
    [
        ({"i_account": 5, "i_customer": 6, "i_sim_card": 7}, "account:5"),
        ({"i_customer": 6, "i_invoice": 8}, "customer:6"),
        ({"i_sim_card": 7}, "sim:7"),
        ({"number": "4420"}, "did:4420"),
        ({"i_account": True, "i_customer": None}, "event:x"),
        ({}, "event:x"),
    ],
)
def test_the_owner_is_the_most_specific_entity(variables: dict[str, Any], owner: str) -> None:
    assert str(owner_of(EspfEvent("SIM/Updated", variables), "x")) == owner
