"""Whatever ingress accepts can be stored, shown and sent at every later step.

Webhooks as nobody should send them, byte for byte, through the real functions. One that is answered
200 is afterwards among the events that ``nsps events`` lists, with an outcome or a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nsps.delivery.history import kept_event
from nsps.delivery.timeline import EventHistory, Timeline

from tests.machine.cloud import Cloud
from tests.machine.world import World

EXAMPLES = 60

NAMES = st.sampled_from(
    [
        "",
        "__x__",
        "__name__",
        ".",
        "a.b",
        "`",
        "/",
        "x" * 2000,
        "\ud83d",
        "\x00",
        "password",
        "i_env",
    ]
)
NUMBERS = st.sampled_from(["1e400", "-1e400", "1e-400", "1.7e308", "NaN", "Infinity", "-0", "0.1"])
INTEGERS = st.integers(-(10**25), 10**25).map(str)
TEXTS = (st.text(max_size=8) | NAMES | st.just("\u202e\x1b[2J") | st.just("y" * 3000)).map(
    json.dumps
)


def _object(pairs: list[tuple[str, str]]) -> str:
    members = ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs)
    return f"{{{members}}}"


def _nested(value: str, levels: int) -> str:
    return '{"x": [' * levels + value + "]}" * levels


# Values as JSON text: what Python would not write is sent too.
LEAVES = st.sampled_from(["null", "true"]) | NUMBERS | INTEGERS | TEXTS
VALUES = st.recursive(
    LEAVES | st.builds(_nested, LEAVES, st.integers(1, 30)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.lists(st.tuples(NAMES | st.text(max_size=5), inner), max_size=3).map(_object)
    ),
    max_leaves=6,
)
NO_IDS = st.sampled_from(
    ["true", "[]", "{}", "[ACCOUNT]", '"x"', '""', "null", "1.5", "-1", "1e20", '"\\ud83d"']
)
"""Whole numbers would be accounts that PortaBilling does not know: their statuses never end."""
TYPES = st.sampled_from(
    ["SIM/Updated", "SIM/Replaced", "Account/Blocked", "SIM/\ud83d", "SIM/" + "t" * 9000]
)


@st.composite
def webhooks(draw: st.DrawFn) -> bytes:
    named = [
        (name, draw(values))
        for name, values in (
            ("i_event", st.integers(1, 10**9).map(str) | VALUES),
            ("i_account", st.sampled_from(["ACCOUNT", '"0ACCOUNT"', "ACCOUNT.0"]) | NO_IDS),
            ("number", VALUES),
            ("prev_iccid", VALUES),
        )
        if draw(st.integers(0, 4))
    ]
    others = draw(st.lists(st.tuples(NAMES | st.text(max_size=9), VALUES), max_size=4))
    variables = _object([*named, *others])
    body = _object([("event_type", json.dumps(draw(TYPES))), ("variables", variables)])
    return body.encode("utf-8", "surrogatepass")


def sent(variables: str) -> bytes:
    body = f'{{"event_type": "SIM/Updated", "variables": {{"i_account": ACCOUNT, {variables}}}}}'
    return body.encode()


@pytest.fixture(scope="module")
def world(cloud: Cloud) -> Iterator[World]:
    made = World(cloud)
    try:
        yield made
    finally:
        made.close()


def shown(world: World, event_id: str) -> EventHistory:
    """The event as the console lists it."""
    listed = {
        event_history.event_id: event_history
        for event_history in Timeline(world.store, {}).latest(1000)
    }
    return listed[event_id]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(webhooks())
@example(sent('"i_event": 900010').replace(b"Updated", rb"\ud83d"))
@example(sent('"i_event": 900001, "prev_iccid": 89445012345678901234'))
@example(sent('"i_event": 900002, "": 1'))
@example(sent('"i_event": 900005, "limit": 1e400'))
@example(sent('"i_event": 900006, "x": [[[1]]], "__y__": 1'))
@example(sent(f'"i_event": 900007, "{"v" * 2000}": 1'))
@example(sent(f'"i_event": 900008, "d": {_nested("1", 12)}'))
@example(sent(f'"i_event": 900009, "d": {_nested("1", 60)}'))
def test_what_is_accepted_is_finished_and_shown(world: World, body: bytes) -> None:
    before = len(world.accepted)
    body = body.replace(b"ACCOUNT", str(world.accounts[0]).encode())
    if world.webhook(body) != 200:
        assert world.webhook(body) == 400, "refused for what it is, each time"
        return
    world.settle()
    (event_id,) = world.accepted[before:]
    event_history = shown(world, event_id)
    assert event_history.state in ("enriched", "unhandled", "rejected"), event_history
    assert all(each.final for each in event_history.deliveries), event_history
    entry = world.store.read(world.store.event(event_id)) or {}
    assert kept_event(entry) is not None
    json.dumps(event_history.event_type, allow_nan=False).encode()
