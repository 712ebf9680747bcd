"""What an event is: reading a webhook, its identity, its owner."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.event import (
    EspfEvent,
    InvalidWebhook,
    Owner,
    UnreadableOwner,
    event_id,
    owner_of,
    parse_webhook,
)

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
    with suppress(UnreadableOwner):
        assert str(Owner.parse(str(owner_of(event, "x")))) == str(owner_of(event, "x"))


def test_ids_are_numbers_or_numeric_strings() -> None:
    number = EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": 9})
    text = EspfEvent("SIM/Updated", {"i_event": "7", "i_env": "1", "i_account": "9"})
    assert event_id("d", number) == event_id("d", text)
    assert owner_of(number, "x") == owner_of(text, "x") == Owner("account", "9")


@pytest.mark.parametrize(
    ("deployment", "event"),
    [
        ("other", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": 9})),
        ("d", EspfEvent("SIM/Deleted", {"i_event": 7, "i_env": 1, "i_account": 9})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 8, "i_env": 1, "i_account": 9})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 2, "i_account": 9})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_account": 9})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": 10})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_customer": 9})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": "9x"})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": "9y"})),
        ("d", EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1})),
    ],
)
def test_deployment_environment_event_type_and_owner_make_the_identity(
    deployment: str, event: EspfEvent
) -> None:
    ids = {"i_event": 7, "i_env": 1, "i_account": 9}
    one = event_id("d", EspfEvent("SIM/Updated", {**ids, "event_time": "x"}))
    assert one == event_id("d", EspfEvent("SIM/Updated", {**ids, "i_customer": 3}))
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
        ({"i_account": None, "i_customer": " "}, "event:x"),
        ({}, "event:x"),
        # Whole numbers in whatever spelling:
        ({"i_account": 277001.0}, "account:277001"),
        ({"i_account": "0277001"}, "account:277001"),
        ({"i_account": " 277001 "}, "account:277001"),
        ({"i_account": "+277001.0"}, "account:277001"),
        ({"i_account": "0"}, "account:0"),
        ({"i_account": 2**63 - 1}, f"account:{2**63 - 1}"),
        ({"i_sim_card": "0003793"}, "sim:3793"),
        # A number's own zeros are part of it:
        ({"number": "004420"}, "did:004420"),
        ({"number": 4420}, "did:4420"),
        # What is less specific than the owner does not matter:
        ({"i_account": 5, "i_customer": "unknown"}, "account:5"),
    ],
)
def test_the_owner_is_the_most_specific_entity(variables: dict[str, Any], owner: str) -> None:
    assert str(owner_of(EspfEvent("SIM/Updated", variables), "x")) == owner


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, 277001.5, -1, "-1", "277001x", "2770 01", "0x1", [277001], {"id": 277001}),
        *(2**63, float(2**53), "9" * 20, "account"),
    ],
)
def test_an_owner_that_is_named_by_no_id_is_nobody_else(value: Any) -> None:
    for key in ("i_account", "i_customer", "i_sim_card", "i_invoice"):
        event = EspfEvent("SIM/Updated", {key: value})
        with pytest.raises(UnreadableOwner, match=f"^{key} .*{re.escape(json.dumps(value))[:60]}"):
            owner_of(event, "x")
    with pytest.raises(UnreadableOwner, match=r"^i_account"):
        owner_of(EspfEvent("SIM/Updated", {"i_account": value, "i_customer": 6}), "x")
    assert EspfEvent("SIM/Updated", {"i_account": value}).i_account is None


@pytest.mark.parametrize("value", [4420.5, True, ["4420"], "4" * 101])
def test_a_number_that_is_none(value: Any) -> None:
    with pytest.raises(UnreadableOwner, match=r"^number"):
        owner_of(EspfEvent("SIM/Updated", {"number": value}), "x")


def test_a_resent_event_is_the_same_however_its_ids_are_spelled() -> None:
    one = EspfEvent("SIM/Updated", {"i_event": 7, "i_env": 1, "i_account": 9})
    for i_event, i_env in ((7.0, "1"), ("007", 1.0), (" 7", " 01 ")):
        same = EspfEvent("SIM/Updated", {"i_event": i_event, "i_env": i_env, "i_account": "09"})
        assert event_id("d", same) == event_id("d", one)


def test_an_event_whose_own_ids_are_none_is_known_by_its_content() -> None:
    for ids in ({"i_event": [7]}, {"i_event": 7.5}, {"i_event": 7, "i_env": {"id": 1}}):
        one = EspfEvent("SIM/Updated", {**ids, "i_account": 9})
        assert event_id("d", one) == event_id("d", EspfEvent("SIM/Updated", dict(one.variables)))
        assert event_id("d", one) != event_id("d", EspfEvent("SIM/Updated", {**ids, "x": 1}))
        assert event_id("d", one) != event_id("d", EspfEvent("SIM/Updated", {"i_event": 7}))


def test_two_events_that_share_a_number_are_told_apart_by_their_owners_alone() -> None:
    named: list[dict[str, Any]] = [
        {"i_account": "9x"},
        {"i_account": "9y"},
        {"i_account": 9},
        {"number": "9"},
        {},
    ]
    events = [EspfEvent("SIM/Updated", {"i_event": 7, **owner}) for owner in named]
    assert len({event_id("d", event) for event in events}) == len(events)
