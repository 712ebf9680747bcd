"""Raw answers -> pb_data. The raw account is written after a real answer of 2023, with canaries."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.snapshot import AccountInfo, PbData, readers
from nsps.portabilling import mapping

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)

RAW_ACCOUNT: dict[str, Any] = {
    "i_account": 2984,
    "id": "34600000001@msisdn",
    "bill_status": "O",
    "blocked": "N",
    "billing_model": 1,
    "i_customer": "2543",
    "i_product": 60,
    "product_name": "Mobile",
    "time_zone_name": "Pacific/Palau",
    "phone1": "",
    "expiration_date": None,
    "balance": 20.98,
    "h323_password": "canary-h323",
    "customer_name": "canary-name",
    "assigned_addons": [
        {
            "i_product": 86,
            "name": "Daily data",
            "description": "",
            "addon_effective_from": "2023-05-15 09:34:58",
            "addon_effective_to": "2023-05-31 14:59:59",
            "addon_priority": 30,
            "i_vd_plan": 48,
            "i_product_group": 7,
            "product_subscription": {"fee": 45},
        },
        "garbage",
        {"i_product": 63, "addon_effective_from": "2023-05-11 21:32:30", "addon_priority": "20"},
    ],
    "service_features": [
        {
            "name": "netaccess_policy",
            "flag_value": "~",
            "effective_flag_value": "Y",
            "attributes": [
                {"name": "access_policy", "values": [None], "effective_values": ["30", None, "31"]}
            ],
        },
        {
            "name": "clip",
            "effective_flag_value": "N",
            "attributes": [{"name": "x", "effective_values": ["1"]}],
        },
        {"name": "conf_enabled", "effective_flag_value": None, "attributes": []},
        {"name": "call_barring", "effective_flag_value": "", "attributes": []},
        {"name": "default_action", "effective_flag_value": "7", "attributes": []},
        {
            "name": "voice_authentication",
            "effective_flag_value": "Y",
            "attributes": [
                {"name": "service_unblock_code", "effective_values": ["canary-code"]},
                {"name": "sip_password", "effective_values": ["canary-sip"]},
                {"name": "i_moh", "effective_values": [1]},
                {"name": "empty", "effective_values": [None], "values": ["canary-own"]},
            ],
        },
    ],
}


def test_a_real_account() -> None:
    account = mapping.account_info(RAW_ACCOUNT, NOW)
    assert account is not None
    assert PbData(account_info=account).to_contract()["account_info"] == {
        "bill_status": "open",
        "billing_model": "credit_account",
        "blocked": False,
        "i_account": 2984,
        "i_customer": 2543,
        "i_product": 60,
        "id": "34600000001@msisdn",
        "phone1": "",
        "product_name": "Mobile",
        "status": "active",
        "time_zone_name": "Pacific/Palau",
        "assigned_addons": [
            {
                "addon_effective_from": "2023-05-15T09:34:58",
                "addon_effective_to": "2023-05-31T14:59:59",
                "addon_priority": 30,
                "description": "",
                "i_product": 86,
                "i_product_group": 7,
                "i_vd_plan": 48,
                "name": "Daily data",
            },
            {
                "addon_effective_from": "2023-05-11T21:32:30",
                "addon_priority": 20,
                "i_product": 63,
            },
        ],
        "service_features": [
            {
                "name": "netaccess_policy",
                "effective_flag_value": "Y",
                "attributes": [{"name": "access_policy", "effective_value": "30,31"}],
            },
            {"name": "clip", "effective_flag_value": "N", "attributes": []},
            {"name": "default_action", "effective_flag_value": "7", "attributes": []},
            {
                "name": "voice_authentication",
                "effective_flag_value": "Y",
                "attributes": [{"name": "i_moh", "effective_value": "1"}],
            },
        ],
    }
    assert mapping.access_policy_id(account) == 30


def test_no_canary_gets_through() -> None:
    account = mapping.account_info(RAW_ACCOUNT, NOW)
    sim = mapping.sim_info(
        {"i_sim_card": 1, "imsi": "214070000000001", "ki": "canary", "opc": "canary", "pin1": "c"}
    )
    policy = mapping.access_policy_info(
        {"attributes": [{"name": "radius.secret", "values": ["canary"]}]}
    )
    written = json.dumps(
        PbData(account_info=account, sim_info=sim, access_policy_info=policy).to_contract()
    )
    assert "canary" not in written


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        *(("O", "open"), ("S", "suspended"), ("I", "inactive"), ("C", "terminated"), ("o", "open")),
        *(("Z", "Z"), ("", None), (None, None), (["O"], None), (True, None)),
    ],
)
def test_bill_status(raw: object, word: str | None) -> None:
    account = mapping.account_info({"bill_status": raw}, NOW)
    assert account is not None
    assert account.bill_status == word


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        *((-1, "debit_account"), ("0", "recharge_voucher"), (1, "credit_account"), (2, "alias")),
        *((4, "beneficiary"), (3, "3"), ("new", "new"), (None, None)),
    ],
)
def test_billing_model(raw: object, word: str | None) -> None:
    account = mapping.account_info({"billing_model": raw}, NOW)
    assert account is not None
    assert account.billing_model == word


@pytest.mark.parametrize(
    ("raw", "blocked"), [("Y", True), ("N", False), (None, None), ("X", None), ([], None)]
)
def test_blocked_means_barred(raw: object, blocked: bool | None) -> None:
    account = mapping.account_info({"blocked": raw, "i_account": 1}, NOW)
    assert account is not None
    assert account.blocked is blocked


@pytest.mark.parametrize(
    ("status", "bill_status", "blocked", "word"),
    [
        (None, "O", "N", "active"),
        (None, "O", "Y", "blocked"),
        (None, "S", "N", None),
        (None, None, None, None),
        ("frozen", "O", "N", "frozen"),
        ("a_new_word", "O", "N", "a_new_word"),
    ],
)
def test_a_missing_status_means_that_nothing_is_wrong(
    status: object, bill_status: object, blocked: object, word: str | None
) -> None:
    raw = {"status": status, "bill_status": bill_status, "blocked": blocked}
    account = mapping.account_info(raw, NOW)
    assert account is not None
    assert account.status == word


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"customer_blocked": "Y"}, "customer_blocked"),
        ({"customer_bill_status": "S"}, "customer_suspended"),
        ({"customer_bill_status": "D"}, "customer_provisionally_terminated"),
        ({"customer_bill_status": "S", "status": "screening"}, "customer_suspended"),
        ({"customer_blocked": "Y", "status": "customer_limited"}, "customer_blocked"),
        ({"customer_blocked": "Y", "status": "expired"}, "expired"),
        (
            {"customer_bill_status": "S", "status": "customer_suspension_delayed"},
            "customer_suspension_delayed",
        ),
        ({"customer_blocked": "N", "customer_bill_status": "O"}, "active"),
    ],
)
def test_what_stops_the_service_comes_before_what_does_not(raw: dict[str, Any], word: str) -> None:
    account = mapping.account_info({"bill_status": "O", "blocked": "N", **raw}, NOW)
    assert account is not None
    assert account.status == word


@pytest.mark.parametrize(
    ("dates", "word"),
    [
        ({"expiration_date": "2026-05-31"}, "expired"),  # its day is over everywhere, by minutes
        ({"expiration_date": "2026-05-31", "status": "overdraft"}, "expired"),
        ({"expiration_date": "2026-06-01"}, "active"),  # its day: PortaBilling's word decides
        ({"expiration_date": "2026-06-01", "status": "expired"}, "expired"),
        ({"expiration_date": "2026-06-01 12:00:00"}, "expired"),
        ({"expiration_date": "2026-06-01 12:00:01"}, "active"),
        ({"activation_date": "2026-06-02"}, "active"),  # has begun in Kiritimati
        ({"activation_date": "2026-06-03"}, "not_yet_active"),
        ({"activation_date": "2026-06-01 12:00:01"}, "not_yet_active"),
        ({"activation_date": "2026-06-01 12:00:00"}, "active"),
        ({"activation_date": "2023-05-12", "expiration_date": None}, "active"),
        ({"activation_date": "0000-00-00", "expiration_date": "0000-00-00 00:00:00"}, "active"),
        ({"activation_date": 7, "expiration_date": "9999-12-31"}, "active"),
    ],
)
def test_a_date_beyond_doubt_is_a_status(dates: dict[str, Any], word: str) -> None:
    account = mapping.account_info({"bill_status": "O", "blocked": "N", **dates}, NOW)
    assert account is not None
    assert account.status == word


@pytest.mark.parametrize(
    ("dates", "now", "word"),
    [
        ({"expiration_date": "2026-05-31"}, NOW - timedelta(seconds=1), "active"),
        ({"expiration_date": "2026-05-31"}, NOW, "expired"),
        ({"activation_date": "2026-06-02"}, NOW - timedelta(hours=2, seconds=1), "not_yet_active"),
        ({"activation_date": "2026-06-02"}, NOW - timedelta(hours=2), "active"),
    ],
)
def test_a_day_is_long_enough_for_every_time_zone(
    dates: dict[str, Any], now: datetime, word: str
) -> None:
    account = mapping.account_info({"bill_status": "O", "blocked": "N", **dates}, now)
    assert account is not None
    assert account.status == word


@pytest.mark.parametrize(
    ("raw", "iso"),
    [
        ("2025-05-16 12:59:46", "2025-05-16T12:59:46"),
        ("2025-05-16T12:59:46", "2025-05-16T12:59:46"),
        ("2025-05-16 12:59:46.123+00:00", "2025-05-16T12:59:46"),
        ("2025-05-16", "2025-05-16"),
        ("tomorrow", "tomorrow"),
        ("", ""),
        (None, None),
    ],
)
def test_dates(raw: object, iso: str | None) -> None:
    assert mapping.iso_time(raw) == iso


def test_the_access_policy_is_in_force_only_where_the_feature_is_on() -> None:
    features = RAW_ACCOUNT["service_features"][0]
    raw = {"service_features": [{**features, "effective_flag_value": "N"}]}
    off = mapping.account_info(raw, NOW)
    assert mapping.access_policy_id(off) is None
    assert mapping.access_policy_id(None) is None


def test_sim_policy_product_counters_customer() -> None:
    sim = mapping.sim_info({"i_account": "5", "iccid": 893400000000000001, "imsi": " 21407 "})
    assert sim is not None
    assert (sim.i_account, sim.iccid, sim.imsi, sim.status) == (
        *(5, "893400000000000001", "21407"),
        None,
    )
    policy = mapping.access_policy_info(
        {
            "i_access_policy": "179",
            "name": "LTE",
            "attributes": [
                {"group_name": "lte", "name": "apn", "values": ["a", None, "b"]},
                {"group_name": "lte", "name": "cs_profile", "value": "cs-1"},
                {"group_name": "lte", "name": "none", "values": [None]},
            ],
        }
    )
    assert policy is not None
    assert [each.value for each in policy.attributes] == ["a,b", "cs-1", None]
    product = mapping.product_info({"i_product": "60", "name": "P", "addon_priority": 0})
    assert product is not None
    assert (product.i_product, product.addon_priority) == (60, 0)
    counters = mapping.vd_counters([{"remaining": "N/A", "i_service": "106"}, None, {"unit": "s"}])
    assert [(each.remaining, each.i_service) for each in counters] == [("N/A", 106), (None, None)]
    customer = mapping.customer_info({"i_customer": 1, "bill_status": "D", "blocked": "N"})
    assert customer is not None
    assert (customer.bill_status, customer.status) == ("deactivated", None)


RAW_MEMBERS = sorted(
    {
        *RAW_ACCOUNT,
        "attributes",
        "effective_values",
        "values",
        "name",
        "status",
        "imsi",
        "remaining",
    }
)
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(RAW_MEMBERS), inner, max_size=6)
    ),
    max_leaves=40,
)


@given(garbage)
def test_garbage_never_crashes_the_mapping(raw: Any) -> None:
    account = mapping.account_info(raw, NOW)
    mapping.access_policy_id(account)
    pb = PbData(
        account_info=account,
        sim_info=mapping.sim_info(raw),
        prev_sim_info=mapping.sim_info(raw),
        access_policy_info=mapping.access_policy_info(raw),
        product_info=mapping.product_info(raw),
        full_vd_counter_info=mapping.vd_counters(raw),
        customer_info=mapping.customer_info(raw),
    )
    json.dumps(pb.to_contract(), allow_nan=False)
    assert PbData.from_contract(pb.to_contract(), pb.read) == pb


@given(st.sampled_from(sorted(RAW_ACCOUNT)), garbage)
def test_one_member_of_the_wrong_kind_leaves_the_others_alone(member: str, raw: Any) -> None:
    account = mapping.account_info({**RAW_ACCOUNT, member: raw}, NOW)
    whole = mapping.account_info(RAW_ACCOUNT, NOW)
    assert account is not None
    assert whole is not None
    derived = {"status"} if member in ("bill_status", "blocked", "status") else set()
    for name in set(whole.__slots__) - {member} - derived:
        assert getattr(account, name) == getattr(whole, name)


def test_what_a_status_is_made_of() -> None:
    class Asked(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    asked: set[str] = set()
    mapping.account_info(Asked(RAW_ACCOUNT), NOW)
    fields = {name for name, _ in readers(AccountInfo)}
    assert asked - fields == set(mapping.STATUS_MEMBERS) - fields
