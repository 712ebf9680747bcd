"""Which handlers want which event: patterns over the whole event type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.routing import InvalidPattern, check_pattern, matches, wants


@pytest.mark.parametrize(
    ("pattern", "event_type", "wanted"),
    [
        ("SIM/*", "SIM/Updated", True),
        ("SIM/*", "SIM/Updated/More", False),
        ("Account/*", "Account/New", True),
        ("Account/*", "Account/Status/Changed", False),
        ("Account/*/*", "Account/Status/Changed", True),
        ("*/BalanceChanged", "Account/BalanceChanged", True),
        ("*/BalanceChanged", "Customer/BalanceChanged", True),
        ("*/BalanceChanged", "A/B/BalanceChanged", False),
        ("Account/*locked", "Account/Unblocked", True),
        ("Account/*locked", "Account/Blocked", True),
        ("Account/*locked", "Account/Lock", False),
        ("Account/ID/Changed", "Account/Id/Changed", True),
        ("account/id/changed", "Account/ID/Changed", True),
        # v2's Subscriber group is three types; v1's Subscriber/Name/Changed is none of them
        ("Subscriber/*", "Subscriber/Updated", True),
        ("Subscriber/*", "Subscriber/Name/Changed", False),
        ("SIM/Updated", "XSIM/Updated", False),
        ("SIM.Updated/x", "SIMxUpdated/x", False),
    ],
)
def test_a_star_is_one_segment_and_letters_match_in_either_case(
    pattern: str, event_type: str, wanted: bool
) -> None:
    assert matches(check_pattern(pattern), event_type) is wanted


@pytest.mark.parametrize("pattern", ["", "SIM", "*", "SIM/", "/SIM", "a/b/c/d/e", "SIM/ü", "S M/x"])
def test_a_pattern_that_could_never_match_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidPattern, match="event pattern"):
        check_pattern(pattern)


segment = st.text("ABCxyz019", min_size=1, max_size=6)


@given(st.lists(segment, min_size=2, max_size=4), st.data())
def test_a_type_is_wanted_whichever_segments_are_starred(
    segments: list[str], data: st.DataObject
) -> None:
    starred = [data.draw(st.sampled_from([s, "*"])) for s in segments]
    assert wants(["No/Such", "/".join(starred)], "/".join(segments))
    assert not wants(["/".join(starred)], "/".join([*segments, "More"]))
