"""Trouble on demand: each fault, as a client of the API meets it; and that it ends when told so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps_local.sandbox import Sandbox
from nsps_local.sandbox.faults import Fault, Faults
from nsps_testing.waiting import wait_for

from tests.local_cloud.sandbox_kit import Api

CHECK = "Server.Session.check_auth.auth_failed"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Sandbox(tmp_path) as sandbox:
        client = Api(sandbox.url)
        client.login()
        yield client


def ok(api: Api) -> bool:
    return bool(api.call("Product/get_product_info", i_product=61)["product_info"])


def on(api: Api, fault: str, **options: Any) -> Any:
    return api.control("faults", {"fault": fault, **options})


def test_tokens_can_all_be_killed(api: Api) -> None:
    answer = api.login()
    assert on(api, "kill_tokens")["killed"] == 2
    assert api.fault("Env/get_env_info") == CHECK
    refreshed = api.raw("Session/refresh_access_token", refresh_token=answer["refresh_token"])
    assert refreshed.status_code == 500, "the session is gone, the refresh token with it"
    api.login()
    assert ok(api)


def test_killed_tokens_may_fail_with_a_chosen_code_and_be_refreshed(api: Api) -> None:
    answer = api.login()
    code = "Client.Session.check_auth.failed_to_process_jwt"
    on(api, "kill_tokens", faultcode=code, refresh_tokens=False)
    assert api.fault("Env/get_env_info") == code
    fresh = api.call("Session/refresh_access_token", refresh_token=answer["refresh_token"])
    api.token = fresh["access_token"]
    assert ok(api)


def test_a_token_can_die_after_some_calls(api: Api) -> None:
    on(api, "token_dies_after", calls=2)
    for _ in range(2):
        assert ok(api) and ok(api)
        assert api.fault("Env/get_env_info") == CHECK
        api.login()
    api.control("faults", method="DELETE")
    assert all(ok(api) for _ in range(5))


def test_logins_can_be_refused(api: Api) -> None:
    login = {"login": "nsps", "password": "sandbox-password"}
    on(api, "login_refused")
    assert api.fault("Session/login", **login) == "Server.Session.auth_failed"
    assert ok(api), "sessions that are open stay open"
    must = "Server.Session.alert_You_must_change_password"
    on(api, "login_refused", faultcode=must)
    assert api.fault("Session/login", **login) == must
    api.control("faults/login_refused", method="DELETE")
    assert "access_token" in api.login()


@pytest.mark.parametrize(
    ("fault", "status", "kind", "start"),
    [
        ("html", 200, "text/html", "<!DOCTYPE"),
        ("non_json", 200, "application/json", '{"account_info"'),
        ("empty", 200, "application/json", ""),
        ("bad_gateway", 502, "text/html", "<html>"),
    ],
)
def test_answers_that_are_none(api: Api, fault: str, status: int, kind: str, start: str) -> None:
    on(api, fault)
    answer = api.raw("Account/get_account_info", i_account=1)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.text.startswith(start)
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    api.control("faults", method="DELETE")
    assert ok(api)


def test_a_connection_can_be_closed_in_the_middle(api: Api) -> None:
    on(api, "close", times=1)
    with pytest.raises(requests.ConnectionError):
        api.raw("Account/get_account_info", i_account=1)
    assert ok(api)


def test_a_call_hangs_until_its_time_or_until_cleared(api: Api) -> None:
    on(api, "hang", seconds=60, methods=["Product/*"])
    with pytest.raises(requests.ReadTimeout):
        api.raw("Product/get_product_info", timeout=0.2, i_product=61)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(ok(Api_of(api))))
    waiting.start()
    wait_for(lambda: api.control("calls")["counts"].get("Product/get_product_info") == 2)
    assert api.call("Env/get_env_info"), "others are not held up"
    assert not answers
    api.control("faults", method="DELETE")
    waiting.join(5)
    assert answers == [True]


def Api_of(api: Api) -> Api:  # noqa: N802 - a second client with the same token
    other = Api(api.url)
    other.token = api.token
    return other


def test_latency_is_set_per_method(api: Api) -> None:
    on(api, "slow", milliseconds=150, methods=["Product/get_product_info"])
    on(api, "slow", milliseconds=60, methods=["Env/*"])
    took: dict[str, float] = {}
    for method in ("Product/get_product_info", "Env/get_env_info", "Customer/get_customer_list"):
        began = time.monotonic()
        api.raw(method, i_product=61)
        took[method] = time.monotonic() - began
    assert took["Product/get_product_info"] >= 0.15
    assert 0.06 <= took["Env/get_env_info"] < 0.15
    assert took["Customer/get_customer_list"] < 0.06


def test_a_slow_answer_may_be_old_when_it_arrives(api: Api) -> None:
    on(api, "slow", milliseconds=300, when="after", methods=["Product/*"])
    names: list[str] = []

    def read() -> None:
        info = Api_of(api).call("Customer/get_customer_info", i_customer=2501)
        names.append(info["customer_info"]["name"])

    api.control("faults", method="DELETE")
    for when, expected in (("after", "Alba Mobile"), ("before", "Later")):
        on(api, "slow", milliseconds=300, when=when, methods=["Customer/*"])
        reading = threading.Thread(target=read)
        reading.start()
        time.sleep(0.1)
        if when == "after":
            api.do("update_customer", i_customer=2501, name="Soon")
        else:
            api.do("update_customer", i_customer=2501, name=expected)
        reading.join()
        api.control("faults", method="DELETE")
        assert names.pop() == expected


def test_a_share_of_calls_can_fail(api: Api) -> None:
    on(api, "fail", percent=100, faultcode="Server.Account.busy", methods=["Product/*"])
    assert api.fault("Product/get_product_info", i_product=61) == "Server.Account.busy"
    assert api.call("Env/get_env_info")
    on(api, "fail", percent=0, methods=["Product/*"])
    assert all(ok(api) for _ in range(5))


def test_the_share_is_right() -> None:
    chances = iter([i / 100 for i in range(100)])
    faults = Faults(chance=lambda: next(chances))
    faults.add(Fault(fault="fail", percent=30))
    assert sum(bool(faults.meeting("Account/get_account_info")) for _ in range(100)) == 30


def test_standalone_mode_reads_only_and_knows_no_session(api: Api) -> None:
    on(api, "standalone_mode")
    assert api.fault("Env/get_env_info") == CHECK, "sessions belong to one site"
    api.login()
    assert ok(api)
    assert api.fault("Account/terminate_account", i_account=1) == "standalone_mode"
    api.control("faults", method="DELETE")
    assert api.fault("Account/terminate_account", i_account=1) == "Server.Account.account_not_found"


def test_a_fault_runs_out_by_itself(api: Api) -> None:
    shown = on(api, "empty", times=2, methods=["Product/*"])["faults"]
    assert shown == [{"fault": "empty", "times": 2, "methods": ["Product/*"], "times_left": 2}]
    for _ in range(2):
        assert api.raw("Product/get_product_info", i_product=61).text == ""
    assert ok(api)
    assert api.control("faults") == {"faults": []}


def test_faults_leave_the_side_door_and_the_status_api_alone(api: Api) -> None:
    on(api, "bad_gateway")
    assert api.control("state")["total"] == 0
    assert api.espf("groups").status_code == 200
    on(api, "bad_gateway", methods=["espf/*"])
    assert api.espf("groups").status_code == 502


@pytest.mark.parametrize(
    ("body", "about"),
    [
        ({"fault": "explode"}, "fault"),
        ({"fault": "hang"}, "seconds"),
        ({"fault": "fail"}, "percent"),
        ({"fault": "fail", "percent": 101}, "percent"),
        ({"fault": "html", "time": 3}, "time"),
        ({}, "fault"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_a_sentence(
    api: Api, body: dict[str, Any], about: str
) -> None:
    answer = api.control_raw("faults", body)
    assert answer.status_code == 400 and about in answer.json()["error"]
