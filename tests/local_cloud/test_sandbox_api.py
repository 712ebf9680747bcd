"""The sandbox's API answers as a PortaBilling does: raw, with secrets, every fault an HTTP 500."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps_local.sandbox import Sandbox

from tests.local_cloud.sandbox_kit import Api

S, L = 61, 62
DATA = 63


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path) as running:
        yield running


@pytest.fixture
def api(sandbox: Sandbox) -> Api:
    client = Api(sandbox.url)
    client.login()
    return client


@pytest.fixture
def account(api: Api) -> int:
    made = api.do(
        "add_account", msisdn="447700900001", i_customer=2501, i_product=S, i_sim_card=3793
    )
    return int(made["i_account"])


# ---- sessions


def test_login_gives_a_jwt_and_its_end(api: Api) -> None:
    answer = api.login(login="nsps", token="sandbox-api-token")
    assert set(answer) == {"session_id", "access_token", "refresh_token", "expires_at"}
    claims = answer["access_token"].split(".")[1]
    read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert read["exp"] - read["iat"] == 172_800
    assert read["jti"] == answer["session_id"]
    assert len(answer["expires_at"]) == len("2023-02-09 12:19:07")


@pytest.mark.parametrize(
    "wrong",
    [
        {"login": "nsps", "password": "no"},
        {"login": "other", "password": "sandbox-password"},
        {"login": "nsps", "token": "sandbox-password"},
        {"login": "nsps"},
        {},
    ],
)
def test_a_wrong_login_is_a_fault(api: Api, wrong: dict[str, str]) -> None:
    assert api.fault("Session/login", **wrong) == "Server.Session.auth_failed"


def test_each_way_to_be_refused_has_its_code(api: Api) -> None:
    good = api.token
    api.token = "not-a-token"
    assert api.fault("Env/get_env_info") == "Client.Session.check_auth.failed_to_process_jwt"
    api.token = "a.b.c"
    code = "Client.Session.check_auth.failed_to_process_access_token"
    assert api.fault("Env/get_env_info") == code
    bare = requests.post(api.url + "/rest/Env/get_env_info", json={"params": {}}, timeout=10)
    assert bare.status_code == 500
    assert bare.json()["faultcode"] == "Client.check_auth.envelope_missed"
    api.token = good
    assert api.call("Session/logout", access_token=good) == {"success": 1}
    assert api.call("Session/logout", access_token=good) == {"success": 0}
    assert api.fault("Env/get_env_info") == "Server.Session.check_auth.auth_failed"


def test_ping_tells_whether_a_session_lives(api: Api) -> None:
    assert api.call("Session/ping", access_token=api.token)["user_id"] > 0
    assert api.call("Session/ping", access_token="a.b.c") == {"user_id": 0}


def test_a_refreshed_token_replaces_the_old_one(api: Api) -> None:
    first = api.login()
    second = api.call("Session/refresh_access_token", refresh_token=first["refresh_token"])
    assert set(second) == {"access_token", "refresh_token", "expires_at"}
    assert api.fault("Env/get_env_info") == "Server.Session.check_auth.auth_failed"
    assert (
        api.raw("Session/refresh_access_token", refresh_token=first["refresh_token"]).status_code
        == 500
    )
    api.token = second["access_token"]
    assert api.call("Env/get_env_info")["env_info"]["i_env"] == 1


def test_tokens_die_of_age_and_of_inactivity(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    settings = {"api": {"token_lifetime": 100, "token_inactivity": 30}}
    with Sandbox(tmp_path, config=settings, clock=lambda: now[0]) as sandbox:
        api = Api(sandbox.url)
        answer = api.login()
        for _ in range(4):
            now[0] += 24
            api.call("Env/get_env_info")
        now[0] += 4
        code = "Client.Session.check_auth.failed_to_process_access_token"
        assert api.fault("Env/get_env_info") == code, "older than its lifetime"
        fresh = api.call("Session/refresh_access_token", refresh_token=answer["refresh_token"])
        api.token = fresh["access_token"]
        api.call("Env/get_env_info")
        now[0] += 31
        assert api.fault("Env/get_env_info") == "Server.Session.check_auth.auth_failed", "idle"


@pytest.mark.parametrize("slash", ["", "/"])
def test_form_fields_carry_json_too(api: Api, slash: str) -> None:
    login = {"login": "nsps", "password": "sandbox-password"}
    for auth_info in (
        login,
        {"session_id": api.login()["session_id"]},
        {"access_token": api.token},
    ):
        answer = requests.post(
            f"{api.url}/rest/Product/get_product_info{slash}",
            data={"auth_info": json.dumps(auth_info), "params": json.dumps({"i_product": S})},
            timeout=10,
        )
        assert answer.json()["product_info"]["name"] == "Mobile S", answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"params": []}', b'"x"', b'{"params": {"i_account": "x"}}', b"\xff"],
)
def test_bad_bodies_are_faults_and_nothing_worse(api: Api, body: bytes) -> None:
    answer = requests.post(
        api.url + "/rest/Account/get_account_info",
        data=body,
        headers={"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"},
        timeout=10,
    )
    assert answer.status_code == 500
    assert answer.json()["faultcode"] == "Client.invalid_params"


# ---- raw answers


def test_a_fine_account_has_no_status_and_unset_keys_are_missing(api: Api, account: int) -> None:
    info = api.call("Account/get_account_info", i_account=account)["account_info"]
    assert (info["bill_status"], info["blocked"], info["billing_model"]) == ("O", "N", 1)
    assert info["id"] == "447700900001@msisdn"
    assert info["expiration_date"] is None
    assert info["h323_password"]
    for unset in ("status", "firstname", "email", "zip", "i_vd_plan", "i_env", "service_features"):
        assert unset not in info, unset
    same = api.call("Account/get_account_info", id="447700900001@msisdn")["account_info"]
    assert same == info
    assert api.call("Account/get_account_info", i_account=str(account))["account_info"] == info


def test_the_status_word_says_what_is_wrong(api: Api, account: int) -> None:
    def status() -> str | None:
        info = api.call("Account/get_account_info", i_account=account)["account_info"]
        word = info.get("status")
        return None if word is None else str(word)

    api.do("block_customer", i_customer=2501)
    assert status() == "customer_blocked"
    api.do("block_account", i_account=account)
    assert status() == "blocked"
    api.do("suspend_account", i_account=account)
    assert status() == "suspended"
    for operation in ("unsuspend_account", "unblock_account"):
        api.do(operation, i_account=account)
    api.do("unblock_customer", i_customer=2501)
    assert status() is None
    api.do("close_account", i_account=account)
    assert status() == "closed"


def test_the_access_policy_is_found_among_sixty_features(api: Api, account: int) -> None:
    info = api.call("Account/get_account_info", i_account=account, get_service_features=1)
    features = {f["name"]: f for f in info["account_info"]["service_features"]}
    assert len(features) > 55
    policy = features["netaccess_policy"]
    assert (policy["flag_value"], policy["effective_flag_value"]) == ("~", "Y")
    assert policy["attributes"] == [
        {"name": "access_policy", "values": [None], "effective_values": ["179"]}
    ]
    assert features["default_action"]["effective_flag_value"] == "7"
    assert None in {f["effective_flag_value"] for f in features.values()}
    without = api.call(
        "Account/get_account_info", i_account=account, detailed_info=1, without_service_features=1
    )
    assert "service_features" not in without["account_info"]
    read = api.call("AccessPolicy/get_access_policy_info", i_access_policy="179")
    assert {a["name"]: a["values"] for a in read["access_policy_info"]["attributes"]} == {
        "cs_profile": ["cs-s"],
        "eps_profile": ["eps-s"],
    }
    assert {a["group_name"] for a in read["access_policy_info"]["attributes"]} == {"lte.wtl"}


def test_a_feature_may_be_the_accounts_own(api: Api, account: int) -> None:
    own = {"access_policy": "180"}
    api.do(
        "set_service_feature", i_account=account, name="netaccess_policy", flag="Y", attributes=own
    )

    def policy() -> tuple[str, list[str]]:
        features = api.call("Account/get_service_features", i_account=account)["service_features"]
        feature = next(f for f in features if f["name"] == "netaccess_policy")
        return feature["flag_value"], feature["attributes"][0]["effective_values"]

    assert policy() == ("Y", ["180"])
    api.do("set_service_feature", i_account=account, name="netaccess_policy", flag="~")
    assert policy() == ("~", ["179"])


def test_card_secrets_are_in_the_raw_answer(api: Api, account: int) -> None:
    card = api.call("SIMCard/get_card_info", i_account=account)["card_info"]
    assert card["imsi"] == "001010000000001" and card["i_account"] == account
    assert {"ki", "opc", "pin1", "puk1", "pin2", "puk2"} <= set(card)
    assert api.call("SIMCard/get_card_info", i_sim_card=3793)["card_info"] == card
    free = api.call("SIMCard/get_card_info", i_sim_card=3794)["card_info"]
    assert free["status"] == "available" and "i_account" not in free
    listed = api.call("SIMCard/get_card_list", i_account=account)["card_list"]
    assert listed == [card]
    api.do("release_sim", i_account=account)
    assert api.call("SIMCard/get_card_info", i_account=account) == {"card_info": None}


def test_addons_bring_counters(api: Api, account: int) -> None:
    api.do("add_addon", i_account=account, i_product=DATA)
    api.do("add_addon", i_account=account, i_product=64)
    addons = api.call("Account/get_account_info", i_account=account)["account_info"][
        "assigned_addons"
    ]
    assert [a["name"] for a in addons] == ["Data 10 GB", "Voice unlimited"]
    assert addons[0]["addon_effective_from"] and addons[0]["product_subscription"]
    api.do("use_bundle", i_account=account, i_vd_plan=48, amount=240)
    api.do("top_up_bundle", i_account=account, i_vd_plan=48, amount=1000)
    data, voice = api.call("Account/get_full_vd_counter_info", i_account=account)[
        "full_vd_counter_info"
    ]
    assert (data["remaining"], data["allocated_amount"], data["addon_priority"]) == (
        11000,
        11240,
        20,
    )
    assert voice["remaining"] == "N/A" and "allocated_amount" not in voice
    subscriptions = api.call("Account/get_subscriptions", i_account=account)["subscriptions"]
    assert len(subscriptions) == 2
    api.do("remove_addon", i_account=account, i_product=DATA)
    left = api.call("Account/get_full_vd_counter_info", i_account=account)["full_vd_counter_info"]
    assert [c["i_vd_plan"] for c in left] == [49]


def test_customers_are_read_alone_and_with_an_account(api: Api, account: int) -> None:
    api.do("update_customer", i_customer=2501, name="Alba One", email="new@alba.example")
    customer = api.call("Customer/get_customer_info", i_customer=2501)["customer_info"]
    assert (customer["name"], customer["email"]) == ("Alba One", "new@alba.example")
    assert "status" not in customer and "zip" not in customer
    info = api.call("Account/get_account_info", i_account=account, with_customer_info=1)
    assert info["account_info"]["customer_info"] == customer
    assert len(api.call("Customer/get_customer_list")["customer_list"]) == 2


def test_lists_have_pages_and_a_limit(sandbox: Sandbox, api: Api) -> None:
    api.control("seed", {"accounts": 1500})
    first = api.call("Account/get_account_list", limit=1000, get_total=1)
    rest = api.call("Account/get_account_list", limit=1000, offset=1000)
    assert first["total"] == 1500
    ids = [a["i_account"] for a in first["account_list"] + rest["account_list"]]
    assert len(set(ids)) == 1500 and ids == sorted(ids)
    assert api.fault("Account/get_account_list", limit=1001) == "Client.invalid_params"
    own = api.call("Account/get_account_list", limit=1000, i_customer=2502)["account_list"]
    assert {a["i_customer"] for a in own} == {2502}


def test_an_entry_of_a_list_may_say_less_than_a_single_read(api: Api, account: int) -> None:
    api.do("block_account", i_account=account)
    single = api.call("Account/get_account_info", i_account=account, detailed_info=1)
    flags = {"get_statuses": 1, "get_service_features": 1}

    def entry(**more: int) -> dict[str, Any]:
        listed = api.call("Account/get_account_list", limit=1000, **more)["account_list"]
        return next(each for each in listed if each["i_account"] == account)

    assert single["account_info"].keys() - entry().keys() == {
        "assigned_addons",
        "service_features",
        "status",
    }
    assert single["account_info"].keys() - entry(**flags).keys() == {"assigned_addons"}
    api.control("settings", {"api": {"lists_omit": ["status", "imsi"]}})
    assert "status" not in entry(**flags)
    (card, *_) = api.call("SIMCard/get_card_list", limit=1)["card_list"]
    assert "imsi" not in card and "iccid" in card


@pytest.mark.parametrize(
    ("method", "params", "code", "key"),
    [
        (
            "Account/get_account_info",
            {"i_account": 1},
            "Server.Account.account_not_found",
            "account_info",
        ),
        (
            "Account/get_account_info",
            {"id": "x"},
            "Server.Account.account_not_found",
            "account_info",
        ),
        (
            "Customer/get_customer_info",
            {"i_customer": 1},
            "Server.Customer.customer_not_found",
            "customer_info",
        ),
        (
            "Product/get_product_info",
            {"i_product": 1},
            "Server.Product.product_not_found",
            "product_info",
        ),
        ("SIMCard/get_card_info", {"i_sim_card": 1}, "Server.SIMCard.card_not_found", "card_info"),
        ("DID/get_number_info", {"number": "1"}, "Server.DID.number_not_found", "number_info"),
        (
            "Invoice/get_invoice_info",
            {"i_invoice": 1},
            "Server.Invoice.invoice_not_found",
            "invoice_info",
        ),
    ],
)
def test_what_is_not_there_can_be_answered_in_three_ways(
    api: Api, method: str, params: dict[str, object], code: str, key: str
) -> None:
    assert api.fault(method, **params) == code
    api.control("settings", {"api": {"unknown": "null"}})
    assert api.call(method, **params) == {key: None}
    api.control("settings", {"api": {"unknown": "empty"}})
    assert api.call(method, **params) == {}


def test_services_of_unestablished_name_are_configurable(tmp_path: Path) -> None:
    settings = {
        "api": {"sim_service": "SIM", "access_policy_service": "Policy", "counter_service": "VD"}
    }
    with Sandbox(tmp_path, config=settings) as sandbox:
        api = Api(sandbox.url)
        api.login()
        assert api.call("SIM/get_card_info", i_sim_card=3793)["card_info"]["i_sim_card"] == 3793
        assert api.call("Policy/get_access_policy_info", i_access_policy=179)
        assert (
            api.fault("VD/get_full_vd_counter_info", i_account=1)
            == "Server.Account.account_not_found"
        )
        assert api.fault("SIMCard/get_card_info", i_sim_card=3793) == "Client.unknown_method"


def test_the_api_can_change_an_account_too(api: Api, account: int) -> None:
    api.call(
        "Account/update_account",
        account_info={"i_account": account, "blocked": "Y", "i_product": L},
    )
    info = api.call("Account/get_account_info", i_account=account)["account_info"]
    assert (info["blocked"], info["product_name"]) == ("Y", "Mobile L")
    half = {"i_account": account, "blocked": "N", "i_product": 999}
    assert (
        api.fault("Account/update_account", account_info=half) == "Server.Account.product_not_found"
    )
    info = api.call("Account/get_account_info", i_account=account)["account_info"]
    assert info["blocked"] == "Y", "a call that fails half-way changes nothing"
    api.call("Account/terminate_account", i_account=account)
    assert (
        api.call("Account/get_account_info", i_account=account)["account_info"]["bill_status"]
        == "C"
    )


def test_calls_are_recorded_with_what_they_were_about(api: Api, account: int) -> None:
    api.control("calls", method="DELETE")
    api.call("Account/get_account_info", i_account=account)
    api.fault("SIMCard/get_card_info", i_sim_card=1)
    seen = api.control("calls")
    assert seen["counts"] == {"Account/get_account_info": 1, "SIMCard/get_card_info": 1}
    assert [(c["method"], c["key"], c["status"]) for c in seen["calls"]] == [
        ("Account/get_account_info", f"i_account={account}", 200),
        ("SIMCard/get_card_info", "i_sim_card=1", 500),
    ]
    assert all(c["seconds"] >= 0 for c in seen["calls"])
    api.login(login="nsps", password="sandbox-password")
    assert "sandbox-password" not in json.dumps(api.control("calls"))
