"""Writes are what the Firestore client itself would send."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.api_core.datetime_helpers import DatetimeWithNanoseconds
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore import ArrayRemove, ArrayUnion, Increment
from google.cloud.firestore_v1 import _helpers
from hypothesis import given, settings
from hypothesis import strategies as st
from nsps.writes import NotPlain, encoded
from proto.datetime_helpers import DatetimeWithNanoseconds as ProtoTime  # type: ignore[import-untyped]

CLIENT = firestore.Client(
    project="p",
    database="d",
    credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
)
REFERENCE = CLIENT.document("handlers", "hss", "resources", "r")

names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)
times = st.integers(0, 2**53).map(lambda us: datetime.fromtimestamp(us / 10**6, UTC))
read_times = st.builds(
    lambda second, ns: DatetimeWithNanoseconds(  # type: ignore[no-untyped-call]
        2026, 11, 21, 2, 10, second, nanosecond=ns, tzinfo=UTC
    ),
    st.integers(0, 59),
    st.integers(0, 999_999_999),
)
wire_times = times.map(
    lambda time: ProtoTime(
        time.year, time.month, time.day, time.hour, time.minute, time.second, time.microsecond,
        tzinfo=UTC,
    )
)  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | times
    | read_times
    | wire_times
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
transforms = (
    st.builds(Increment, st.integers(-5, 5))
    | st.builds(ArrayUnion, st.lists(leaves, min_size=1, max_size=3))
    | st.builds(ArrayRemove, st.lists(leaves, min_size=1, max_size=3))
)


def comparable(write: Any) -> Any:
    """Transforms are applied together: their order says nothing."""
    message = write._pb
    ordered = sorted(message.update_transforms, key=lambda each: str(each.field_path))
    del message.update_transforms[:]
    message.update_transforms.extend(ordered)
    return message


@settings(deadline=None)
@given(st.dictionaries(names, values | transforms, min_size=1, max_size=5))
def test_a_merge_is_what_the_client_would_send(fields: dict[str, Any]) -> None:
    (theirs,) = _helpers.pbs_for_set_with_merge(
        REFERENCE._document_path, fields, merge=list(fields)
    )
    assert comparable(encoded(REFERENCE, fields, create=False)) == comparable(theirs)


@settings(deadline=None)
@given(st.dictionaries(names, values | transforms, max_size=5))
def test_a_creation_is_what_the_client_would_send(fields: dict[str, Any]) -> None:
    (theirs,) = _helpers.pbs_for_create(REFERENCE._document_path, fields)
    assert comparable(encoded(REFERENCE, fields, create=True)) == comparable(theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {"a.b": 1},
        {"": 1},
        {"ä": 1},
        {"a": object()},
        {"a": firestore.SERVER_TIMESTAMP},
        {"a": firestore.DELETE_FIELD},
        {"a": {"b": Increment(1)}},
        {"a": [REFERENCE]},
        {"a": datetime(2026, 1, 1)},  # noqa: DTZ001 (that is the point)
        {"a": {1: 2}},
    ],
)
def test_what_is_not_plain_is_left_to_the_client(fields: dict[str, Any]) -> None:
    with pytest.raises(NotPlain):
        encoded(REFERENCE, fields, create=False)
