"""The ESPF status API: exact statuses, registered groups, real HTTP codes, every status kept in
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsps_local.sandbox import Sandbox

from tests.local_cloud.sandbox_kit import Api


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Sandbox(tmp_path) as sandbox:
        client = Api(sandbox.url)
        client.login()
        made = client.do("add_account", msisdn="447700900001", i_customer=2501, i_product=61)
        assert made["i_account"] == 277001
        yield client


BY_NUMBER = "account/i/277001/status"


@pytest.mark.parametrize(
    "path",
    [BY_NUMBER, "account/447700900001@msisdn/status", "account/447700900001%40msisdn/status"],
)
@pytest.mark.parametrize("status", ["OK", "IN_PROGRESS", "RETRY", "FAILED"])
def test_a_status_is_taken_by_number_and_by_id(api: Api, path: str, status: str) -> None:
    answer = api.espf(path, {"status": status, "group": "HSS", "message": "x" * 4000})
    assert (answer.status_code, answer.content) == (200, b"")
    statuses = api.control("statuses?i_account=277001&group=HSS")["statuses"]
    assert [(s["status"], len(s["message"])) for s in statuses] == [(status, 4000)]


def test_the_history_keeps_every_status_in_order(api: Api) -> None:
    sent = [
        ("HSS", "IN_PROGRESS"),
        ("PCRF", "RETRY"),
        ("HSS", "OK"),
        ("HSS", "OK"),
        ("PCRF", "FAILED"),
    ]
    for group, status in sent:
        assert api.espf(BY_NUMBER, {"status": status, "group": group}).ok
    statuses = api.control("statuses")["statuses"]
    assert [(s["group"], s["status"]) for s in statuses] == sent
    assert [s["at"] for s in statuses] == sorted(s["at"] for s in statuses)
    shown = api.control("state")["accounts"][0]["provisioning"]
    assert {g: (s["status"], s["told"]) for g, s in shown.items()} == {
        "HSS": ("OK", 3),
        "PCRF": ("FAILED", 2),
    }


@pytest.mark.parametrize(
    "body",
    [
        {"status": "OK ", "group": "HSS"},
        {"status": "ok", "group": "HSS"},
        {"status": "DONE", "group": "HSS"},
        {"group": "HSS"},
        {"status": ["OK"], "group": "HSS"},
        {"status": "OK"},
        {"status": "OK", "group": "CRM"},
        {"status": "OK", "group": "hss"},
        {"status": "OK", "group": None},
        {"status": "OK", "group": "HSS", "message": "x" * 4001},
        {"status": "OK", "group": "HSS", "message": 5},
        [],
        "OK",
    ],
)
def test_what_is_not_exactly_right_is_400(api: Api, body: Any) -> None:
    assert api.espf(BY_NUMBER, body).status_code == 400
    assert api.control("statuses")["statuses"] == []


def test_the_body_is_json_even_when_called_a_form(api: Api) -> None:
    headers = {
        "Authorization": f"Bearer {api.token}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    body = b'{"status":"OK","group":"HSS"}'
    answer = api.espf(BY_NUMBER, {}, json=None, data=body, headers=headers)
    assert answer.status_code == 200
    assert len(api.control("statuses")["statuses"]) == 1


def test_no_account_is_404(api: Api) -> None:
    body = {"status": "OK", "group": "HSS"}
    assert api.espf("account/i/1/status", body).status_code == 404
    assert api.espf("account/nobody/status", body).status_code == 404


def test_credentials_are_needed_and_basic_is_one(api: Api) -> None:
    body = {"status": "OK", "group": "HSS"}
    assert api.espf(BY_NUMBER, body, headers={}).status_code == 401
    assert api.espf(BY_NUMBER, body, headers={"Authorization": "Bearer a.b.c"}).status_code == 401
    assert api.espf(BY_NUMBER, body, headers={}, auth=("nsps", "wrong")).status_code == 401
    assert api.espf("groups", headers={}).status_code == 401
    assert (
        api.espf(BY_NUMBER, body, headers={}, auth=("nsps", "sandbox-password")).status_code == 200
    )
    api.control("faults", {"fault": "kill_tokens"})
    assert api.espf(BY_NUMBER, body).status_code == 401, "the token of the API is the token here"


def test_custom_groups_are_registered_first(api: Api) -> None:
    groups = api.espf("groups").json()["group_list"]
    assert groups[0] == {"i_group": "1", "name": "VoIP", "is_custom": False}
    assert [g["name"] for g in groups][1:3] == ["HSS", "PCRF"] and len(groups) == 8
    made = api.espf("group/create", {"name": "CRM"})
    assert (made.status_code, made.json()) == (200, {"i_group": "1001", "name": "CRM"})
    assert api.espf(BY_NUMBER, {"status": "OK", "group": "CRM"}).ok
    assert api.espf("group/create", {"name": "IOT"}).json()["i_group"] == "1002"
    assert {"i_group": "1002", "name": "IOT", "is_custom": True} in api.espf("groups").json()[
        "group_list"
    ]


@pytest.mark.parametrize(
    "body", [{"name": ""}, {"name": "x" * 65}, {"name": 5}, {}, {"name": "HSS"}]
)
def test_a_group_with_a_bad_name_is_400(api: Api, body: Any) -> None:
    assert api.espf("group/create", body).status_code == 400


def test_the_status_api_can_be_down_while_the_rest_is_up(api: Api) -> None:
    api.control("faults", {"fault": "status_api_down"})
    assert api.espf(BY_NUMBER, {"status": "OK", "group": "HSS"}).status_code == 503
    assert api.espf("groups").status_code == 503
    assert api.call("Env/get_env_info")
    api.control("faults/status_api_down", method="DELETE")
    api.control("faults", {"fault": "status_api_down", "status": 500, "times": 1})
    assert api.espf(BY_NUMBER, {"status": "OK", "group": "HSS"}).status_code == 500
    assert api.espf(BY_NUMBER, {"status": "OK", "group": "HSS"}).status_code == 200


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(body=st.binary(max_size=60))
def test_no_body_breaks_it(api: Api, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    answer = api.espf(BY_NUMBER, {}, json=None, data=body, headers=headers)
    assert answer.status_code == 400
