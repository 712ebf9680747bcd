"""The published contract: what is read from a request, and the code that an outcome becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.connector import contract
from nsps.connector.base import Enriched
from nsps.connector.contract import Invalid, answer_for, authorized, read_event
from nsps.delivery.verdict import Verdict
from nsps.domain.outcome import NoAnswer, Outcome, Transient, Unclear, Unexpected, Unreachable
from nsps.domain.snapshot import Block, BlockNotRead
from nsps.runtime.trace import Trace

NOW = datetime(2026, 11, 21, 2, 10, 3, 123456, tzinfo=UTC)
TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "req-1")
IDENT = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
SAMPLE: dict[str, Any] = {
    "event_id": IDENT,
    "data": {
        "event_type": "SIM/Updated",
        "variables": {"i_env": "3", "i_event": "999", "i_account": "277147"},
    },
    "pb_data": {
        "account_info": {
            "bill_status": "open",
            "billing_model": "credit_account",
            "blocked": False,
            "i_account": 277147,
            "id": "79123456789@msisdn",
        },
        "sim_info": {"i_sim_card": 3793, "imsi": "001010000020349", "status": "active"},
    },
    "handler_id": "hlr-hss-nsps",
    "created_at": "2025-03-12T16:47:30.443939+00:00",
    "updated_at": "2025-03-12T16:47:36.585885+00:00",
    "status": "received",
}


def read(document: Any, required: Iterable[Block] = ()) -> Enriched:
    return read_event(json.dumps(document).encode(), TRACE, NOW, required)


def test_the_vendors_sample_event_is_read() -> None:
    event = read(SAMPLE)
    assert event.event_id == IDENT
    assert str(event.owner) == "account:277147"
    assert event.t == f"2025-03-12T16:47:36.585885Z/{IDENT}"
    assert event.pb.sim_info is not None and event.pb.sim_info.imsi == "001010000020349"
    assert event.created_at == SAMPLE["created_at"]
    assert (event.trace_id, event.request_id) == (TRACE.trace_id, "req-1")


def test_only_the_id_and_the_event_are_mandatory() -> None:
    event = read({"event_id": IDENT, "data": {"event_type": "SIM/Created", "variables": {}}})
    assert event.t == f"2026-11-21T02:10:03.123456Z/{IDENT}"
    assert str(event.owner) == f"event:{IDENT}"
    assert event.owner.i_account is None
    assert event.pb.read == {Block.PREV_SIM_INFO}
    for name in ("pb_data", "handler_id", "status", "created_at", "updated_at"):
        assert read({**SAMPLE, name: None}).event_id == IDENT


def not_said(
    event_type: str, pb_data: Any, required: Iterable[Block], **variables: Any
) -> set[str]:
    """The required blocks that are named as missing."""
    data = {"event_type": event_type, "variables": variables}
    try:
        read({**SAMPLE, "data": data, "pb_data": pb_data}, required)
    except Invalid as error:
        assert all(str(detail["msg"]).startswith(detail["loc"][-1]) for detail in error.details)
        return {detail["loc"][-1] for detail in error.details}
    return set()


ACCOUNT, SIM, PREVIOUS = Block.ACCOUNT_INFO, Block.SIM_INFO, Block.PREV_SIM_INFO
POLICY, PRODUCT, COUNTERS = (
    Block.ACCESS_POLICY_INFO,
    Block.PRODUCT_INFO,
    Block.FULL_VD_COUNTER_INFO,
)
SAID: Mapping[str, Any] = {**SAMPLE["pb_data"], "product_info": {"name": "Pay as you go"}}


@pytest.mark.parametrize("block", [ACCOUNT, SIM, PRODUCT])
@pytest.mark.parametrize("given", [None, {}, [], "x", 7, {"firstname": "Ann", "status": None}])
def test_a_required_block_must_be_said(block: Block, given: Any) -> None:
    absent = {name: each for name, each in SAID.items() if name != block}
    assert not_said("SIM/Updated", absent, [ACCOUNT, SIM, PRODUCT]) == {block}
    if block is PRODUCT and isinstance(given, dict) and given:
        return  # any product says something
    assert not_said("SIM/Updated", {**SAID, block: given}, [ACCOUNT, SIM, PRODUCT]) == {block}


def test_blocks_that_are_not_required_need_not_be_said() -> None:
    assert not_said("SIM/Updated", None, []) == set()
    assert not_said("SIM/Updated", SAID, [ACCOUNT, SIM, PREVIOUS]) == set()
    assert not_said("SIM/Updated", SAID, [ACCOUNT, POLICY, COUNTERS]) == {POLICY, COUNTERS}
    assert not_said("SIM/Updated", {**SAID, COUNTERS: [], POLICY: [{"name": "x"}]}, [
        ACCOUNT, POLICY, COUNTERS,
    ]) == set()  # fmt: skip


@pytest.mark.parametrize(
    ("event_type", "variables", "more", "missing"),
    [
        ("SIM/Updated", {"i_account": 7}, {}, {ACCOUNT, SIM}),
        ("Account/Blocked", {"i_account": 7}, {}, {ACCOUNT, SIM}),
        ("Account/Status/Closed", {"i_account": 7}, {}, set()),
        ("Subscriber/Deleted", {"i_account": 7}, {}, set()),
        ("Subscriber/Updated", {"i_account": 7}, {}, {ACCOUNT, SIM}),
        ("SIM/Deleted", {"i_account": 7}, {}, {ACCOUNT}),
        ("SIM/Deleted", {"i_sim_card": 7}, {}, set()),
        ("SIM/Replaced", {"i_account": 7}, {}, {ACCOUNT, SIM}),
        ("SIM/Replaced", {"i_account": 7}, {"prev_sim_info": {"imsi": "001"}}, {ACCOUNT}),
    ],
)
def test_null_is_gone_only_where_the_event_says_so(
    event_type: str, variables: Any, more: Any, missing: set[str]
) -> None:
    nulls = {ACCOUNT: None, SIM: None, **more}
    assert not_said(event_type, nulls, [ACCOUNT, SIM], **variables) == missing
    assert not_said(event_type, more, [ACCOUNT, SIM], **variables) == {ACCOUNT, SIM}


def test_a_snapshot_is_never_of_a_time_to_come() -> None:
    """Else it would be the newest for ever."""
    event = read({**SAMPLE, "updated_at": "9999-01-01T00:00:00+00:00"})
    assert event.t == f"2026-11-21T02:10:03.123456Z/{IDENT}"


@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.timezones()))
def test_snapshot_times_sort_as_the_times_they_are(one: datetime, other: datetime) -> None:
    late = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
    try:
        times = [
            read_event(
                json.dumps({**SAMPLE, "updated_at": each.isoformat()}).encode(), TRACE, late
            ).t
            for each in (one, other)
        ]
    except Invalid:
        return  # before the year 1 in UTC
    assert (times[0] < times[1]) == (min(one, late) < min(other, late))


WITHOUT: Any = object()


@pytest.mark.parametrize(
    ("path", "value", "loc"),
    [
        (("data", "variables"), WITHOUT, ["body", "data", "variables"]),
        (("data", "variables"), [], ["body", "data", "variables"]),
        (("data", "event_type"), WITHOUT, ["body", "data", "event_type"]),
        (("data", "event_type"), "", ["body", "data", "event_type"]),
        (("data",), WITHOUT, ["body", "data"]),
        (("data",), "SIM/Updated", ["body", "data"]),
        (("event_id",), WITHOUT, ["body", "event_id"]),
        (("event_id",), 7, ["body", "event_id"]),
        (("event_id",), "a/b", ["body", "event_id"]),
        (("event_id",), "..", ["body", "event_id"]),
        (("event_id",), "__all__", ["body", "event_id"]),
        (("event_id",), "x" * 201, ["body", "event_id"]),
        (("pb_data",), [1], ["body", "pb_data"]),
        (("updated_at",), "yesterday", ["body", "updated_at"]),
        (("updated_at",), "0001-01-01T00:00:00+14:00", ["body", "updated_at"]),
        (("updated_at",), {"a": 1}, ["body", "updated_at"]),
        (("data", "variables"), {"name": "\ud83d"}, ["body"]),
    ],
)
def test_what_is_wrong_is_named_as_pydantic_names_it(path: Any, value: Any, loc: Any) -> None:
    document = json.loads(json.dumps(SAMPLE))
    within = document
    for part in path[:-1]:
        within = within[part]
    if value is WITHOUT:
        del within[path[-1]]
    else:
        within[path[-1]] = value
    with pytest.raises(Invalid) as raised:
        read(document)
    answer = contract.invalid(raised.value)
    assert answer.code == 422
    assert answer.body["type"] == "VALIDATION_ERROR"
    (detail,) = answer.body["details"]
    assert detail["loc"] == loc and set(detail) == {"loc", "msg", "type"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"[" * 100_000, b'"x"', b"NaN"]
)
def test_a_body_that_is_no_event(body: bytes) -> None:
    with pytest.raises(Invalid):
        read_event(body, TRACE, NOW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_no_body_makes_it_crash(body: bytes) -> None:
    try:
        read_event(body, TRACE, NOW)
    except Invalid as error:
        assert error.details


@given(
    st.sampled_from(["event_id", "data", "pb_data", "created_at", "updated_at", "status"]),
    json_values,
    st.sampled_from([(), ("account_info",), ("sim_info", "imsi"), ("full_vd_counter_info",)]),
)
def test_no_member_makes_it_crash(name: str, value: Any, inside: tuple[str, ...]) -> None:
    for part in reversed(inside if name == "pb_data" else ()):
        value = {part: value}
    try:
        event = read({**SAMPLE, name: value})
    except Invalid as error:
        assert error.details
    else:
        event.pb.to_contract()
        assert event.event_id and "/" not in event.event_id


TOKEN = "s3cret-token"


@pytest.mark.parametrize(
    ("header", "right"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (TOKEN, False),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer ", False),
        ("Bearer \u00e9", False),
        ("", False),
        (None, False),
    ],
)
def test_the_token_must_be_shown_whole(header: str | None, right: bool) -> None:
    assert authorized(header, TOKEN) is right
    assert not authorized(header, "")


@pytest.mark.parametrize(
    ("verdict", "code", "kind"),
    [
        (Verdict(True, Outcome.DELIVERED), 202, None),
        (Verdict(True, Outcome.UNCHANGED), 202, None),
        (Verdict(True, Outcome.ACCEPTED), 202, None),
        (Verdict(True, Outcome.SUPERSEDED), 202, None),
        (Verdict(True, Outcome.WAITING), 202, None),
        (Verdict(True, Outcome.REJECTED, "no IMSI"), 422, "VALIDATION_ERROR"),
        (Verdict(False, Outcome.RETRYING, "busy", 7.2, Transient("")), 429, "RATE_LIMIT_ERROR"),
        (Verdict(False, Outcome.RETRYING, "HTTP 500", None, Transient("")), 500, "SERVICE_ERROR"),
        (Verdict(False, Outcome.RETRYING, "off", None, Unreachable("")), 503, "CONNECTION_ERROR"),
        (Verdict(False, Outcome.RETRYING, "lost", None, NoAnswer("")), 503, "CONNECTION_ERROR"),
        (
            Verdict(False, Outcome.RETRYING, "not read", None, BlockNotRead(Block.SIM_INFO)),
            *(422, "VALIDATION_ERROR"),
        ),
        (Verdict(False, Outcome.RETRYING, "500", None, Unclear("")), 500, "SERVICE_ERROR"),
        (Verdict(False, Outcome.WAITING, "held"), 503, "CONNECTION_ERROR"),
        (Verdict(False, Outcome.RETRYING, "?", None, Unexpected("")), 500, "INTERNAL_ERROR"),
    ],
)
def test_each_outcome_has_its_code(verdict: Verdict, code: int, kind: str | None) -> None:
    answer = answer_for(verdict)
    assert answer.code == code
    if kind is None:
        assert answer.body["message"] == "Event accepted for processing"
        return
    assert answer.body["type"] == kind
    assert set(answer.body) == {"message", "error", "type"}
    assert answer.body["error"]
    assert ("Retry-After" in answer.headers) == (code in (429, 503))
    if code == 429:
        assert answer.headers["Retry-After"] == "7"
        assert answer.body["message"] == "Too many requests to API Core"


def test_the_words_of_the_published_table() -> None:
    unauthorized = contract.unauthorized()
    assert unauthorized.headers == {"WWW-Authenticate": "Bearer"}
    answers = [(a.code, *a.body.values()) for a in (unauthorized, contract.not_found())]
    assert answers == [
        (401, "Invalid access token", "Unauthorized", "AUTHENTICATION_ERROR"),
        (404, "Resource not found", "Not found", "VALIDATION_ERROR"),
    ]
    wrong = contract.method_not_allowed("POST")
    assert (wrong.code, wrong.body["message"], wrong.headers) == (
        405,
        "Method not allowed",
        {"Allow": "POST"},
    )


def test_an_owner_that_is_no_id_is_named() -> None:
    data = {"event_type": "SIM/Updated", "variables": {"i_account": "7x", "i_customer": 8}}
    with pytest.raises(Invalid) as refused:
        read({"event_id": IDENT, "data": data})
    (detail,) = refused.value.details
    assert detail["loc"] == ["body", "data", "variables"]
    assert str(detail["msg"]).startswith("i_account should say whom the event is about")
