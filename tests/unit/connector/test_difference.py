"""What is shown of a difference: every value, no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.connector.difference import MOST_SHOWN, changed, differences, plain, shown
from nsps.runtime.secrets import SecretValue

from tests.unit.connector.systems import KI, REDACTOR, went

SECRET = SecretValue(KI, "ki")
OTHER = "plain words that no pattern takes for a secret"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.just(SECRET),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
states = st.dictionaries(st.text(max_size=5), values, max_size=4)


def test_a_list_is_shown_before_and_after() -> None:
    found = differences({"apn": ["a"]}, {"apn": ["a", ["b"]]}, REDACTOR)
    assert found == {"apn": went(["a"], ["a", ["b"]])}
    assert differences({"apn": None}, {"apn": None}, REDACTOR) == {}


@pytest.mark.parametrize(
    ("wanted", "was", "before", "after"),
    [
        (SECRET, OTHER, "***", "***"),
        (SECRET, None, None, "***"),
        ([{"n": 1, "data": SECRET}], [{"n": 1, "data": OTHER}], *(2 * [[{"n": 1, "data": "***"}]])),
        ([{"n": 1, "data": SECRET}], [], "***", [{"n": 1, "data": "***"}]),
        ([SECRET], [OTHER, OTHER], "***", ["***"]),
        ({"a": {"b": (SECRET,)}}, {"a": {"b": [OTHER]}}, *(2 * [{"a": {"b": ["***"]}}])),
        ({"a": SECRET}, {"a": OTHER, "spare": OTHER}, {"a": "***", "spare": "***"}, {"a": "***"}),
        ({"a": SECRET}, OTHER, "***", {"a": "***"}),
        (["x"], [SecretValue(OTHER)], ["***"], ["x"]),
    ],
)  # fmt: skip
def test_a_secret_inside_is_never_shown(wanted: Any, was: Any, before: Any, after: Any) -> None:
    """What the system tells of it is text, and a secret all the same."""
    found = differences({"cards": was}, {"cards": wanted}, REDACTOR)
    assert found == {"cards": went(before, after)}
    assert KI not in repr(found) and OTHER not in repr(found)


def test_secrets_inside_are_compared_by_their_value() -> None:
    state = {"cards": [{"data": SECRET}]}
    assert changed({"cards": [{"data": KI}]}, state) == set()
    assert changed({"cards": [{"data": OTHER}]}, state) == {"cards"}
    assert REDACTOR.digest(plain(state)) != REDACTOR.digest(plain({"cards": [{"data": OTHER}]}))


def test_a_long_value_is_cut() -> None:
    (cut,) = shown({"list": ["x y " * 50] * 500}, REDACTOR).values()
    assert len(cut) < MOST_SHOWN + 20 and cut.endswith("... (cut)")


@given(states, states)
def test_any_state_is_shown_without_its_secrets(was: Any, state: Any) -> None:
    for each in (shown(state, REDACTOR), differences(was, state, REDACTOR)):
        assert KI not in json.dumps(each)
    REDACTOR.digest(plain(state))
    assert changed(plain(state), state) == set()
