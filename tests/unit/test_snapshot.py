"""pb_data: written and read as the published contract has it; lenient, total, discreet."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.snapshot import (
    AccountInfo,
    Block,
    BlockNotRead,
    PbData,
    ServiceFeature,
    ServiceFeatureAttribute,
    SimInfo,
    as_flag,
    as_integer,
)
from nsps_local.certify.samples import Samples, pb_data

SAMPLE = pb_data(Samples(datetime.now(UTC)).subscriber())
CONTRACT: dict[str, Any] = SAMPLE | {
    "full_vd_counter_info": [
        *SAMPLE["full_vd_counter_info"],
        {"service_name": "Internet Access KB", "remaining": "10", "allocated_amount": 10.0},
        {"service_name": "Voice", "remaining": 2.5},
        {"service_name": "SMS", "remaining": "N/A"},
    ],
}
"""What connectors of partners are certified with: each member as the contract has it."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


def test_a_message_of_the_published_contract_survives_reading_and_writing() -> None:
    assert PbData.from_contract(CONTRACT).to_contract() == CONTRACT


def test_the_attributes_are_the_contracts_names() -> None:
    pb = PbData.from_contract(CONTRACT)
    assert pb.account_info is not None
    assert pb.account_info.service_features[0].attributes[0].effective_value == "179"
    assert pb.account_info.blocked is False
    assert pb.access_policy_info is not None
    assert pb.access_policy_info.value("cs_profile") == "cs-default"
    assert pb.access_policy_info.value("cs_profile", "other") is None
    assert pb.account_info.feature("nothing") is None


def test_unknown_members_are_ignored_and_null_reads_as_empty() -> None:
    document = {**CONTRACT, "news": 1, "sim_info": {"imsi": "1", "ki": "canary", "x": [1]}}
    assert "canary" not in json.dumps(PbData.from_contract(document).to_contract())
    assert PbData.from_contract(None) == PbData() == PbData.from_contract({})
    nulls = PbData.from_contract({"sim_info": None, "full_vd_counter_info": None})
    assert nulls == PbData(sim_info=None, full_vd_counter_info=None) != PbData()


@pytest.mark.parametrize("block", Block)
def test_what_was_not_read_is_not_gone(block: Block) -> None:
    gone = PbData().read_as([block])
    assert getattr(gone, block) is None and gone.read == {block}
    for unread in (PbData(), PbData().read_as(set(Block) - {block}), gone.trim([])):
        assert unread != gone and block not in unread.read
        with pytest.raises(BlockNotRead, match=f"add {block} to the handler's requires"):
            getattr(unread, block)
        with pytest.raises(BlockNotRead):
            unread.in_contract(block)
    assert gone.trim(Block) == gone
    assert PbData.from_contract({}, [block]) == gone
    assert repr(gone) == f"PbData(no {block})" and repr(PbData()) == "PbData()"


def test_access_policy_info_may_come_as_a_list_of_one() -> None:
    pb = PbData.from_contract({"access_policy_info": [{"i_access_policy": "5"}]})
    assert pb.access_policy_info is not None
    assert pb.access_policy_info.i_access_policy == 5


def test_no_counters_is_not_the_same_as_counters_not_read() -> None:
    assert PbData(full_vd_counter_info=()).to_contract() == {"full_vd_counter_info": []}
    assert PbData().to_contract() == {}
    assert PbData.from_contract({"full_vd_counter_info": []}).full_vd_counter_info == ()
    assert PbData(full_vd_counter_info=None).to_contract() == {}


def test_trim_keeps_only_what_a_handler_requires() -> None:
    pb = PbData.from_contract(CONTRACT)
    assert pb.trim([Block.SIM_INFO]) == PbData(sim_info=pb.sim_info)
    assert pb.trim([]) == PbData()
    assert pb.trim(Block) == pb
    assert pb.trim([Block("product_info")]).product_info == pb.product_info


def test_no_repr_shows_a_subscriber() -> None:
    account = AccountInfo(i_account=7, id="34600000001@msisdn", firstname="Ada", email="a@b.c")
    pb = PbData(account_info=account, sim_info=SimInfo(imsi="214070000000001", i_sim_card=3))
    shown = repr(pb) + repr(account) + str(pb.sim_info) + f"{[pb]}"
    assert "i_account=7" in shown
    for private in ("34600000001", "Ada", "a@b.c", "214070000000001"):
        assert private not in shown


def test_snapshots_are_values() -> None:
    one = PbData.from_contract(CONTRACT)
    assert one == PbData.from_contract(json.loads(json.dumps(CONTRACT)))
    assert len({one, PbData.from_contract(CONTRACT)}) == 1


def test_lenient_values() -> None:
    assert [as_integer(v) for v in (5, "5", " 5 ", "-1", 5.0)] == [5, 5, 5, -1, 5]
    nothing: object
    for nothing in (True, None, "", "x", "٣", 5.5, float("nan"), [], {}, "1" * 30):
        assert as_integer(nothing) is None
    assert [as_flag(v) for v in ("Y", "n", 1, 0, True, "X", None, 2)] == [
        *(True, False, True, False, True),
        *(None, None, None),
    ]


@given(json_values)
def test_any_json_is_read_without_a_crash(document: Any) -> None:
    for each in (document, *({block: document} for block in Block)):
        pb = PbData.from_contract(each)
        json.dumps(pb.to_contract(), allow_nan=False)
        assert PbData.from_contract(pb.to_contract(), pb.read) == pb


members = st.sampled_from(
    [
        *(*Block, "i_account", "imsi", "blocked", "attributes", "service_features", "name"),
        *("remaining", "value", "addon_priority", "allocated_amount", "assigned_addons"),
    ]
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=5),
        max_leaves=30,
    )
)
def test_garbage_in_the_right_places_is_read_without_a_crash(document: Any) -> None:
    pb = PbData.from_contract(document)
    json.dumps(pb.to_contract(), allow_nan=False)
    assert PbData.from_contract(pb.to_contract(), pb.read) == pb


@given(st.text(max_size=5), st.text(max_size=5))
def test_what_is_written_is_read(name: str, value: str) -> None:
    feature = ServiceFeature(name, "Y", (ServiceFeatureAttribute(name, value),))
    pb = PbData(account_info=AccountInfo(id=value, service_features=(feature,)))
    assert PbData.from_contract(json.loads(json.dumps(pb.to_contract()))) == pb
