"""The language of fields: what each form names, its kind and its blocks, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from nsps.domain.fields import Fields, Source
from nsps.domain.snapshot import Block, BlockNotRead, PbData

ACCOUNT, SIM, POLICY = Block.ACCOUNT_INFO, Block.SIM_INFO, Block.ACCESS_POLICY_INFO

PB = PbData.from_contract(
    {
        "account_info": {
            "i_account": 7,
            "id": "420777000003@msisdn",
            "firstname": " Zoë",
            "lastname": "O'Hara ",
            "bill_status": "open",
            "blocked": "N",
            "assigned_addons": [{"name": "Roaming", "i_product": 9}, {"name": "Data"}],
            "service_features": [
                {
                    "name": "netaccess_policy",
                    "effective_flag_value": "Y",
                    "attributes": [{"name": "apn", "effective_value": "internet,ims"}],
                }
            ],
        },
        "sim_info": {"imsi": "001010000000003"},
        "access_policy_info": {"attributes": [{"name": "cs.profile", "value": "gold"}]},
        "product_info": {"name": "Gold", "addon_priority": 0},
        "full_vd_counter_info": [{"unit": "min", "allocated_amount": 2.5}],
        "customer_info": None,
    }
)


@pytest.mark.parametrize(
    ("text", "kind", "blocks", "value"),
    [
        ("account_info.id", "text", (ACCOUNT,), "420777000003@msisdn"),
        ("account_info.i_account", "integer", (ACCOUNT,), 7),
        ("account_info.blocked", "flag", (ACCOUNT,), False),
        ("account_info.email", "text", (ACCOUNT,), None),
        ("customer_info.city", "text", (Block.CUSTOMER_INFO,), None),
        ("product_info.addon_priority", "integer", (Block.PRODUCT_INFO,), 0),
        ("account_info.assigned_addons.Roaming.i_product", "integer", (ACCOUNT,), 9),
        ("account_info.assigned_addons.Voice.i_product", "integer", (ACCOUNT,), None),
        (
            "account_info.service_features.netaccess_policy.attributes.apn.effective_value",
            *("text", (ACCOUNT,), "internet,ims"),
        ),
        (
            "account_info.service_features.netaccess_policy.attributes",
            *("list", (ACCOUNT,), [{"name": "apn", "effective_value": "internet,ims"}]),
        ),
        ("account_info.service_features.none.attributes", "list", (ACCOUNT,), None),
        (
            "account_info.assigned_addons",
            *("list", (ACCOUNT,), [{"name": "Roaming", "i_product": 9}, {"name": "Data"}]),
        ),
        (
            "full_vd_counter_info",
            "list",
            (Block.FULL_VD_COUNTER_INFO,),
            [{"unit": "min", "allocated_amount": 2.5}],
        ),
        ("feature.netaccess_policy", "text", (ACCOUNT,), "Y"),
        ("feature.other", "text", (ACCOUNT,), None),
        ("policy.cs.profile", "text", (POLICY,), "gold"),
        ("policy.other", "text", (POLICY,), None),
        ("name", "text", (ACCOUNT,), "Zoë O'Hara"),
        ("msisdn", "text", (ACCOUNT, SIM), "420777000003"),
        ("imsi", "text", (SIM,), "001010000000003"),
        ("status", "text", (ACCOUNT,), "active"),
        ("service_granted", "flag", (ACCOUNT,), True),
        ("addons", "text", (ACCOUNT,), "Data,Roaming"),
    ],
)
def test_what_a_source_names(text: str, kind: str, blocks: tuple[Block, ...], value: Any) -> None:
    source = Source.parse(text)
    assert (source.kind, source.blocks) == (kind, blocks)
    found = source.value(PB)
    assert found == value and type(found) is type(value)
    with pytest.raises(BlockNotRead):
        source.value(PbData())
    gone = PbData().read_as(blocks)
    assert source.value(gone) is (False if text == "service_granted" else None)


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "nothing", "nothing.there", "Account_info.id", "account_info", "account_info."),
        *("account_info.nonsense", "account_info.id.x", "account_info..id", "account_info.feature"),
        *("feature.", "policy.", "feature", "msisdn.x", "full_vd_counter_info.unit"),
        "account_info.assigned_addons.Roaming",
        "account_info.assigned_addons..i_product",
        "account_info.assigned_addons.Roaming.nonsense",
        "account_info.assigned_addons.Roaming.i_product.x",
    ],
)
def test_what_names_nothing_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no value: write BLOCK\.MEMBER.*msisdn") as error:
        Source.parse(text)
    assert repr(text) in str(error.value)


def test_a_previous_card_is_no_state() -> None:
    with pytest.raises(ValueError, match=r"is no state: write sim_info\.MEMBER"):
        Source.parse("prev_sim_info.imsi")


def test_the_fields_of_a_setting() -> None:
    fields = Fields.parse("columns", {"number": "msisdn", "plan": "product_info.name"})
    assert list(fields.reads()) == [
        ("columns.number (msisdn)", ACCOUNT),
        ("columns.number (msisdn)", SIM),
        ("columns.plan (product_info.name)", Block.PRODUCT_INFO),
    ]
    assert fields.values(PB) == {"number": "420777000003", "plan": "Gold"}
    with pytest.raises(ValueError, match=r"plan: 'product' names no value"):
        Fields.parse("columns", {"number": "msisdn", "plan": "product"})


def test_a_list_is_for_systems_that_take_lists() -> None:
    texts = {"addons": "account_info.assigned_addons"}
    with pytest.raises(ValueError, match=r"addons: .* name one value of it, \S+\.NAME\.MEMBER"):
        Fields.parse("columns", texts)
    fields = Fields.parse("characteristics", texts, lists=True)
    assert fields.values(PB)["addons"][1] == {"name": "Data"}


@pytest.mark.parametrize(
    ("text", "document", "there"),
    [
        ("account_info.id", {"account_info": {"i_account": 1}}, True),
        ("account_info.id", {"account_info": None}, False),
        ("sim_info.imsi", {"sim_info": {}}, False),
        ("sim_info.imsi", {"sim_info": {"imsi": ""}}, True),
        ("msisdn", {"account_info": None, "sim_info": {"msisdn": "1"}}, False),
    ],
)
def test_whether_its_block_is_there(text: str, document: dict[str, Any], there: bool) -> None:
    assert Source.parse(text).has_block(PbData.from_contract(document)) is there
