"""The two messages: what is written can be read again, and nothing malformed slips in."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.cloud.messages import EnrichedMessage, MalformedMessage, PushMessage, RawEventMessage
from nsps.cloud.push import PushRefused, parse_push
from nsps.domain.event import EspfEvent, InvalidWebhook, Owner, SnapshotTime
from nsps.domain.snapshot import Block
from nsps.runtime.trace import Trace

TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "req-1")
BODY = b'{"event_type": "SIM/Updated", "variables": {"i_event": 5, "x": 1.10}, "more": 1}'
WHEN = "2026-11-21T02:10:03.123456+00:00"


def enriched(**changes: Any) -> EnrichedMessage:
    members: dict[str, Any] = {
        "event_id": "e-1",
        "event": EspfEvent("SIM/Updated", {"i_event": 5, "i_account": "277147"}),
        "pb_data": {"account_info": {"firstname": "Zoë \U0001f600"}},
        "t": SnapshotTime("2026-11-21T02:10:03.123456Z/e-1"),
        "owner": Owner("account", "277147"),
        "received_at": WHEN,
        "created_at": WHEN,
        "updated_at": WHEN,
        "trace": TRACE,
        "handlers": ("crm", "hss-2"),
    }
    return EnrichedMessage(**(members | changes))


def pushed(data: bytes, attributes: dict[str, str]) -> PushMessage:
    """What comes out after a trip through Pub/Sub's JSON."""
    message = {
        "data": base64.b64encode(data).decode(),
        "attributes": attributes,
        "messageId": "m-1",
        "publishTime": "2026-11-21T02:10:04Z",
    }
    body = {"message": message, "subscription": "projects/p/subscriptions/s", "deliveryAttempt": 3}
    return parse_push(json.dumps(body).encode())


@pytest.mark.parametrize(("handler", "run"), [(None, None), ("hss", 2), ("hss", None)])
def test_a_raw_event_comes_back_unchanged(handler: str | None, run: int | None) -> None:
    message = RawEventMessage(BODY, "e-1", WHEN, TRACE, handler, run)
    data, attributes = message.to_pubsub()
    assert data == BODY
    assert RawEventMessage.from_push(pushed(data, attributes)) == message
    assert message.event.variables == {"i_event": 5, "x": 1.10}


@pytest.mark.parametrize(("pb_data", "run"), [({}, None), (None, 7), ({"sim_info": None}, 1)])
def test_an_enriched_event_comes_back_unchanged(pb_data: Any, run: int | None) -> None:
    message = enriched(pb_data=pb_data, run=run)
    assert EnrichedMessage.from_push(pushed(*message.to_pubsub())) == message


@pytest.mark.parametrize("read", [None, (), (Block.SIM_INFO,), Block])
def test_which_blocks_were_read_travels_beside_them(read: Any) -> None:
    message = enriched(read=None if read is None else frozenset(read))
    data, attributes = message.to_pubsub()
    assert ("read" in json.loads(data)) == (read is not None)
    assert EnrichedMessage.from_push(pushed(data, attributes)) == message


def test_a_block_of_a_later_version_is_left_out_and_nonsense_refused() -> None:
    _, attributes = enriched().to_pubsub()
    body = enriched().body() | {"read": ["sim_info", "later_info", 7]}
    later = EnrichedMessage.from_push(pushed(json.dumps(body).encode(), attributes))
    assert later.read == frozenset({Block.SIM_INFO})
    wrong = json.dumps(body | {"read": "sim_info"}).encode()
    with pytest.raises(MalformedMessage, match="read is not a list"):
        EnrichedMessage.from_push(pushed(wrong, attributes))


def test_an_enriched_event_is_the_published_contract_with_one_attribute_per_handler() -> None:
    data, attributes = enriched(run=2).to_pubsub()
    assert json.loads(data) == {
        "event_id": "e-1",
        "data": {"event_type": "SIM/Updated", "variables": {"i_event": 5, "i_account": "277147"}},
        "pb_data": {"account_info": {"firstname": "Zoë \U0001f600"}},
        "handler_id": None,
        "status": "queued",
        "created_at": WHEN,
        "updated_at": WHEN,
    }
    assert attributes == {
        "event_id": "e-1",
        "t": "2026-11-21T02:10:03.123456Z/e-1",
        "owner": "account:277147",
        "received_at": WHEN,
        "trace_id": TRACE.trace_id,
        "request_id": "req-1",
        "run": "2",
        "crm": "1",
        "hss-2": "1",
    }


@pytest.mark.parametrize("name", ["owner", "run", "t", "HSS", "event_id", "timeout", ""])
def test_a_handler_cannot_hide_an_attribute(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be named"):
        enriched(handlers=(name,)).to_pubsub()


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": ""}, {"t": ""}, {"owner": "nobody"}, {"received_at": ""}, {"run": "0"},
        {"run": "two"}, {"event_id": "another"},
    ],
)  # fmt: skip
def test_wrong_attributes_are_named(change: dict[str, str]) -> None:
    data, attributes = enriched().to_pubsub()
    with pytest.raises(MalformedMessage):
        EnrichedMessage.from_push(pushed(data, attributes | change))


@given(st.binary(max_size=50) | st.sampled_from([b"{}", b"[]", b"[" * 9999, b'{"data": 1}']))
def test_any_data_is_survived(data: bytes) -> None:
    _, attributes = enriched().to_pubsub()
    with pytest.raises(MalformedMessage):
        EnrichedMessage.from_push(PushMessage(data, attributes, "m"))
    raw = RawEventMessage.from_push(PushMessage(data, attributes, "m"))
    with pytest.raises(InvalidWebhook):
        assert raw.event


def test_a_push_is_read() -> None:
    message = pushed(b"data", {"a": "b"})
    assert message == PushMessage(
        b"data", {"a": "b"}, "m-1", "2026-11-21T02:10:04Z", 3, "projects/p/subscriptions/s"
    )


@given(
    st.binary(max_size=60)
    | st.sampled_from(
        [
            b"{}", b"null", b"[" * 99_999, b'{"message": {}}', b'{"message": {"messageId": 7}}',
            b'{"message": {"messageId": "1", "data": "%%"}}',
            b'{"message": {"messageId": "1", "data": 5}}',
            b'{"message": {"messageId": "1", "attributes": {"a": 1}}}',
            b'{"message": {"messageId": "1", "attributes": []}}',
        ]
    )
)  # fmt: skip
def test_a_push_that_is_not_understood_is_refused_with_400(body: bytes) -> None:
    with pytest.raises(PushRefused) as raised:
        parse_push(body)
    assert raised.value.status == 400
