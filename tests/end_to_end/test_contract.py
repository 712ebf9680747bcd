"""The published NSPS connector contract, served by real functions in real processes.

The vendor's ten tests of a connector, its sample event and its malformed sample; and whatever else
a body may hold. The database connector is the real one; for the answers that it cannot be made to
give, a connector whose system does as it is told.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
import requests
from google.cloud import firestore
from google.cloud.secretmanager_v1 import Secret, SecretPayload
from google.cloud.secretmanager_v1.services.secret_manager_service import (
    SecretManagerServiceClient,
)
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsps_local.firestore import FirestoreServer
from nsps_local.secretmanager import SecretManagerServer
from nsps_testing.waiting import wait_for

from tests.end_to_end.function_process import FunctionProcess

ROOT = Path(__file__).parents[2]
TOKEN = "c0ntract-Cn4ry-token"
SECRET = "s0me-Cn4ry-password"
NAME = "Zebulonka"

VENDORS_SAMPLE: dict[str, Any] = {
    "event_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "data": {
        "event_type": "SIM/Updated",
        "variables": {
            "i_env": "3",
            "i_event": "999",
            "i_account": "277147",
            "curr_status": "used",
            "prev_status": "active",
        },
    },
    "pb_data": {
        "account_info": {
            "bill_status": "open",
            "billing_model": "credit_account",
            "blocked": False,
            "firstname": NAME,
            "i_account": 277147,
            "i_customer": 6392,
            "i_product": 3774,
            "id": "79123456789@msisdn",
            "phone1": "",
            "product_name": "Pay as you go",
            "time_zone_name": "Europe/Prague",
            "assigned_addons": [
                {
                    "addon_effective_from": "2025-05-16T12:59:46",
                    "addon_priority": 10,
                    "description": "",
                    "i_product": 3775,
                    "i_vd_plan": 1591,
                    "name": "Youtube UHD",
                }
            ],
            "service_features": [
                {
                    "name": "netaccess_policy",
                    "effective_flag_value": "Y",
                    "attributes": [{"name": "access_policy", "effective_value": "179"}],
                }
            ],
        },
        "sim_info": {
            "i_sim_card": 3793,
            "imsi": "001010000020349",
            "msisdn": "79123456789",
            "status": "active",
        },
        "access_policy_info": {
            "i_access_policy": 179,
            "name": "WTL integration test",
            "attributes": [
                {"group_name": "lte.wtl", "name": "cs_profile", "value": "cs-pp-20250319"}
            ],
        },
    },
    "handler_id": "wtl-hlr-hss-nsps",
    "created_at": "2025-03-12T16:47:30.443939+00:00",
    "updated_at": "2025-03-12T16:47:36.585885+00:00",
    "status": "received",
}
MALFORMED_SAMPLE = {
    "event_id": "a3623086-24c2-47fb-a17f-929d9e542ed2",
    "data": {"event_type": "SIM/Updated"},
    "handler_id": "p1-nsps",
    "status": "received",
}

# A connector whose system is told over HTTP what to do: the code that it answers with, or "crash".
CORE = '''
"""A connector for the tests: one PUT per SIM card, and no way to read."""

from nsps.connector.base import StateConnector
from nsps.connector.serve import serve
from nsps.domain.outcome import Terminal, Transient
from pydantic import BaseModel


class Settings(BaseModel):
    url: str


class Core(StateConnector[Settings]):
    settings_model = Settings
    readable = False

    def check(self, call):
        self.create("health", {}, call)

    def desired(self, event):
        sim = event.pb.sim_info
        return {sim.imsi: {"name": event.pb.account_info.firstname}} if sim else {}

    def create(self, key, state, call):
        answer = self.context.http.request(
            "PUT", f"{self.settings.url}/{key}", json=dict(state), deadline=call.deadline
        )
        if answer.text == "crash":
            raise RuntimeError(f"for %s: password=%s" % (state["name"], answer.headers["x-secret"]))
        if answer.status == 422:
            raise Terminal(answer.text)
        if not answer.ok:
            raise Transient(f"{answer.status} {answer.text}", answer.retry_after())

    change = None

    def change(self, key, state, was, call):
        raise AssertionError

    def delete(self, key, was, call):
        raise AssertionError


main = serve(Core)
'''


class System:
    """The system behind that connector."""

    def __init__(self) -> None:
        self.mode: tuple[int, str, dict[str, str]] = (200, "", {})
        self.seconds = 0.0
        self.written: list[str] = []
        self.entered = threading.Event()
        system = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                system.entered.set()
                time.sleep(system.seconds)
                status, text, headers = system.mode
                system.written.append(self.path)
                self.send_response(status)
                self.send_header("x-secret", SECRET)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Cloud:
    """Firestore and Secret Manager, embedded."""

    def __init__(self, folder: Path) -> None:
        self.firestore = FirestoreServer(folder / "firestore")
        self.firestore.start()
        self.secrets = SecretManagerServer(folder / "secrets")
        self.secrets.start()
        channel = grpc.insecure_channel(self.secrets.target)
        manager = SecretManagerServiceClient(
            transport=SecretManagerServiceGrpcTransport(channel=channel)
        )
        for name, value in {"contract": TOKEN, "digest-key": "0123456789abcdef"}.items():
            parent = f"projects/demo/secrets/{name}"
            secret = Secret(replication={"automatic": {}})
            manager.create_secret(parent="projects/demo", secret_id=name, secret=secret)
            payload = SecretPayload(data=value.encode())
            manager.add_secret_version(parent=parent, payload=payload)

    def stop(self) -> None:
        self.secrets.stop()
        self.firestore.stop()


class Function(FunctionProcess):
    """One handler's function."""

    def __init__(self, folder: Path, cloud: Cloud, source: Path, **handler: Any) -> None:
        super().__init__(source, folder)
        described = {"events": ["SIM/*"], "contract_token": "sm://contract", **handler}
        push = {"audience": self.url, "service_account": "invoker@demo.example"}
        self.environ = {
            "FIRESTORE_EMULATOR_HOST": cloud.firestore.target,
            "SECRET_MANAGER_EMULATOR_HOST": cloud.secrets.target,
            "GOOGLE_CLOUD_PROJECT": "demo",
            "NSPS_DEPLOYMENT": "demo",
            "NSPS_FUNCTION": handler["name"],
            "NSPS_DATABASE": "(default)",
            "NSPS_DIGEST_KEY": "sm://digest-key",
            "NSPS_PUSH": json.dumps(push),
            "NSPS_PORTABILLING": json.dumps({"url": "http://127.0.0.1:1", "credentials": "sm://x"}),
            "NSPS_HANDLER": json.dumps(described),
        }

    def post(self, document: Any, token: str | None = TOKEN, **more: Any) -> requests.Response:
        """An event as NSPS sends it; ``document`` as JSON, or bytes as they are."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"} | more.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return requests.post(
            f"{self.url}/process-event", data=data, headers=headers, timeout=30, **more
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[Cloud]:
    running = Cloud(folder)
    yield running
    running.stop()


def database_function(folder: Path, cloud: Cloud, name: str) -> Function:
    return Function(
        folder,
        cloud,
        ROOT / "functions" / "connectors" / "database" / "main.py",
        name=name,
        connector="database",
        requires=["account_info", "sim_info"],
        settings={"url": f"sqlite:///{folder}/{name}.db", "create_table": True},
    )


@pytest.fixture(scope="module")
def database(folder: Path, cloud: Cloud) -> Iterator[Function]:
    with database_function(folder, cloud, "subscribers") as function:
        yield function


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    running = System()
    yield running
    running.close()


@pytest.fixture(scope="module")
def core_process(folder: Path, cloud: Cloud, system: System) -> Iterator[Function]:
    source = folder / "core" / "main.py"
    source.parent.mkdir()
    source.write_text(CORE)
    with Function(
        folder,
        cloud,
        source,
        name="core",
        connector="core",
        requires=["account_info", "sim_info"],
        call_timeout_seconds=1.0,
        settings={"url": system.url},
    ) as function:
        yield function


@pytest.fixture
def core(core_process: Function, system: System) -> Iterator[Function]:
    yield core_process
    system.mode, system.seconds = (200, "", {}), 0.0
    system.entered.clear()


_numbers = iter(range(1, 10**6))


def event(**changes: Any) -> dict[str, Any]:
    """The vendor's sample for an account, a SIM card and an event of its own."""
    number = next(_numbers)
    document: dict[str, Any] = json.loads(json.dumps(VENDORS_SAMPLE))
    document["event_id"] = f"event-{number}"
    document["data"]["variables"]["i_account"] = str(500000 + number)
    document["pb_data"]["account_info"]["i_account"] = 500000 + number
    document["pb_data"]["sim_info"]["imsi"] = f"00101{number:010}"
    return document | changes


def rows(folder: Path, name: str = "subscribers") -> dict[int, dict[str, Any]]:
    with sqlite3.connect(folder / f"{name}.db", timeout=20) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("select * from subscribers").fetchall()
    return {row["i_account"]: dict(row) for row in found}


def is_error(answer: requests.Response, code: int, kind: str) -> dict[str, Any]:
    """The body of an error as the contract wants it."""
    assert answer.status_code == code, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    body: dict[str, Any] = answer.json()
    assert isinstance(body["message"], str) and isinstance(body["error"], str)
    assert body["type"] == kind
    return body


# ---- the vendor's ten tests -------------------------------------------------------------------


def test_1_health(database: Function) -> None:
    answer = requests.get(f"{database.url}/health", timeout=10)
    assert answer.status_code == 200
    assert answer.json() == {"status": "Healthy", "service": "subscribers"}
    deep = requests.get(f"{database.url}/health?deep=1", timeout=10)
    assert deep.status_code == 401, "not everybody may make us call the system"


def test_2_a_valid_event(database: Function, folder: Path) -> None:
    headers = {"x-b3-traceid": "463ac35c9f6413ad48485a3953bb6124", "x-request-id": "req-77"}
    answer = database.post(VENDORS_SAMPLE, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["message"] == "Event accepted for processing"
    row = rows(folder)[277147]
    assert (row["imsi"], row["msisdn"], row["status"]) == (
        "001010000020349",
        "79123456789",
        "active",
    )
    again = database.post(VENDORS_SAMPLE)
    assert again.status_code == 202
    lines = [json.loads(line) for line in database.log.read_text().splitlines() if "{" in line]
    mine = [line for line in lines if line.get("unique_id") == "req-77"]
    assert mine and all(
        line["request_id"] == "463ac35c9f6413ad48485a3953bb6124"
        and line["event_id"] == VENDORS_SAMPLE["event_id"]
        for line in mine
    )


@pytest.mark.parametrize(
    "token", [None, "", "wrong", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "\xe9"]
)
def test_3_no_token_or_a_bad_one(database: Function, folder: Path, token: str | None) -> None:
    document = event()
    answer = database.post(document, token)
    body = is_error(answer, 401, "AUTHENTICATION_ERROR")
    assert (body["message"], body["error"]) == ("Invalid access token", "Unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert document["pb_data"]["account_info"]["i_account"] not in rows(folder)


def test_3_the_token_is_looked_at_before_the_body(database: Function) -> None:
    is_error(database.post(b"{", "wrong"), 401, "AUTHENTICATION_ERROR")
    basic = {"Authorization": "Basic YTpi"}
    is_error(database.post(event(), None, headers=basic), 401, "AUTHENTICATION_ERROR")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/nothing", "/process-event/x", "/health/x", "/process"])
def test_4_an_unknown_resource(database: Function, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.request(method, database.url + path, headers=headers, timeout=10)
    body = is_error(answer, 404, "VALIDATION_ERROR")
    assert (body["message"], body["error"]) == ("Resource not found", "Not found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/process-event", "POST"),
        ("PUT", "/process-event", "POST"),
        ("DELETE", "/process-event", "POST"),
        ("PATCH", "/process-event/", "POST"),
        ("POST", "/health", "GET"),
        ("GET", "/", "POST"),
    ],
)
def test_5_a_wrong_method(database: Function, method: str, path: str, allowed: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.request(method, database.url + path, headers=headers, timeout=10)
    body = is_error(answer, 405, "VALIDATION_ERROR")
    assert body["message"] == body["error"] == "Method not allowed"
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (MALFORMED_SAMPLE, ["body", "data", "variables"]),
        ({**VENDORS_SAMPLE, "event_id": None}, ["body", "event_id"]),
        ({**VENDORS_SAMPLE, "pb_data": "x"}, ["body", "pb_data"]),
        ([VENDORS_SAMPLE], ["body"]),
        (b"{", ["body"]),
        (b"", ["body"]),
        (b"\xff\xfe", ["body"]),
        (b"[" * 50_000, ["body"]),
    ],
)
def test_6_a_malformed_body(database: Function, body: Any, loc: list[str]) -> None:
    error = is_error(database.post(body), 422, "VALIDATION_ERROR")
    assert error["message"] == error["error"] == "Validation failed"
    assert [detail["loc"] for detail in error["details"]] == [loc]
    assert all(detail["msg"] and detail["type"] for detail in error["details"])


def test_7_the_rate_limit_of_the_system(core: Function, system: System) -> None:
    system.mode = (429, "slow down", {"Retry-After": "2"})
    document = event()
    answer = core.post(document)
    body = is_error(answer, 429, "RATE_LIMIT_ERROR")
    assert body["message"] == "Too many requests to API Core" and "slow down" in body["error"]
    assert answer.headers["Retry-After"] == "2"
    system.mode = (200, "", {})
    ends = time.monotonic() + 10
    while (again := core.post(document)).status_code != 202:  # it is left alone for so long
        is_error(again, 429, "RATE_LIMIT_ERROR")
        assert time.monotonic() < ends
        time.sleep(0.2)


def test_8_an_internal_error(core: Function, system: System) -> None:
    system.mode = (200, "crash", {})
    body = is_error(core.post(event()), 500, "INTERNAL_ERROR")
    assert body["message"] == "Internal server error" and "RuntimeError" in body["error"]
    log = core.log.read_text()
    assert "RuntimeError" in log and "stack_trace" in log
    assert SECRET not in log + json.dumps(body), "the exception's text holds a secret"
    assert NAME not in log, "and a subscriber's name"


def test_8_an_error_of_the_system(core: Function, system: System) -> None:
    system.mode = (500, f"oops {{'password': '{SECRET}'}} Bearer {TOKEN}", {})
    body = is_error(core.post(event()), 500, "SERVICE_ERROR")
    assert body["message"] == "API Core HTTP error" and "oops" in body["error"]
    assert SECRET not in str(body) and TOKEN not in str(body)


def test_9_the_system_cannot_be_reached(folder: Path, cloud: Cloud, core: Function) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        source = folder / "core" / "main.py"
        handler = {"name": "lonely", "connector": "core", "requires": ["account_info", "sim_info"]}
        with Function(folder, cloud, source, **handler, settings={"url": url}) as lonely:
            answer = lonely.post(event())
            body = is_error(answer, 503, "CONNECTION_ERROR")
            assert body["message"] == "Core service is not available"
            assert int(answer.headers["Retry-After"]) > 0
            assert requests.get(f"{lonely.url}/health", timeout=10).status_code == 200


def test_9_the_system_does_not_answer_in_time(core: Function, system: System) -> None:
    system.seconds = 1.6
    body = is_error(core.post(event()), 503, "CONNECTION_ERROR")
    assert "no answer within 1 s" in body["error"]


def test_9_the_store_cannot_be_reached(folder: Path) -> None:
    gone = Cloud(folder / "gone")
    try:
        with database_function(folder, gone, "storeless") as function:
            assert function.post(event()).status_code == 202
            gone.firestore.stop()
            # The client library tries for a minute by itself; nobody waits that long.
            with suppress(requests.Timeout):
                answer = requests.post(
                    f"{function.url}/process-event",
                    data=json.dumps(event()),
                    headers={"Authorization": f"Bearer {TOKEN}"},
                    timeout=3,
                )
                is_error(answer, 503, "CONNECTION_ERROR")
            assert requests.get(f"{function.url}/health", timeout=10).status_code == 200
            function.process.kill()
    finally:
        gone.stop()


def test_10_a_shutdown_loses_no_work_of_the_database(folder: Path, cloud: Cloud) -> None:
    with database_function(folder, cloud, "leaving") as function:
        assert function.post(event()).status_code == 202
        document = event()
        with (
            sqlite3.connect(folder / "leaving.db", isolation_level=None) as other,
            ThreadPoolExecutor() as pool,
        ):
            other.execute("BEGIN IMMEDIATE")  # nobody else can write
            answer = pool.submit(function.post, document)
            _wait_for_lease(cloud, document["pb_data"]["account_info"]["i_account"])
            function.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert not answer.done()
            other.execute("ROLLBACK")
            assert answer.result(20).status_code == 202
        other.close()
        function.process.wait(15)
    assert document["pb_data"]["account_info"]["i_account"] in rows(folder, "leaving")
    with pytest.raises(requests.ConnectionError):
        function.post(event())


def _wait_for_lease(cloud: Cloud, i_account: int) -> None:
    """Until the delivery has begun: its owner's watermark is written."""
    with mock.patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": cloud.firestore.target}):
        client = firestore.Client(project="demo")
    at = client.document("handlers", "leaving", "owners", f"account:{i_account}")
    wait_for(lambda: at.get().exists)


def test_10_a_shutdown_loses_no_call_that_is_under_way(
    folder: Path, cloud: Cloud, core: Function, system: System
) -> None:
    source = folder / "core" / "main.py"
    handler = {"name": "parting", "connector": "core", "requires": ["account_info", "sim_info"]}
    with Function(folder, cloud, source, **handler, settings={"url": system.url}) as function:
        system.seconds = 1.0
        system.entered.clear()
        documents = [event() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(function.post, document) for document in documents]
            assert system.entered.wait(15)
            deadline = time.monotonic() + 10
            time.sleep(0.4)
            function.process.send_signal(signal.SIGTERM)
            codes = [answer.result(20).status_code for answer in answers]
        assert codes == [202] * 4
        function.process.wait(max(1.0, deadline - time.monotonic()))
        assert function.process.returncode == 0
    for document in documents:
        assert f"/{document['pb_data']['sim_info']['imsi']}" in system.written


# ---- what else may come -------------------------------------------------------------------------


BLOCKS = ("account_info", "sim_info")


@pytest.mark.parametrize(
    ("pb_data", "missing"),
    [
        (None, BLOCKS),
        ({}, BLOCKS),
        ({"account_info": None, "sim_info": None}, BLOCKS),
        ({"sim_info": {"imsi": "001010000020349"}}, ("account_info",)),
        ({"account_info": {"id": "1@msisdn", "i_account": 1}}, ("sim_info",)),
        ({"account_info": {}, "sim_info": {}}, BLOCKS),
        ({"account_info": "x", "sim_info": []}, BLOCKS),
    ],
)
@pytest.mark.parametrize("event_type", ["SIM/Updated", "Account/Blocked", "SIM/Deleted"])
def test_a_block_that_is_not_sent_removes_nothing(
    database: Function, folder: Path, event_type: str, pb_data: Any, missing: tuple[str, ...]
) -> None:
    document = event()
    if event_type == "SIM/Deleted" and pb_data and pb_data.get("sim_info", 0) is None:
        missing = ("account_info",)  # that the card is gone is what the event says
    i_account = document["pb_data"]["account_info"]["i_account"]
    assert database.post(document).status_code == 202
    before = rows(folder)[i_account]
    document["event_id"] += "-2"
    document["updated_at"] = "2025-03-12T16:48:00.000000+00:00"
    document["data"]["event_type"] = event_type
    document["pb_data"] = pb_data
    error = is_error(database.post(document), 422, "VALIDATION_ERROR")
    named = [detail["loc"] for detail in error["details"]]
    assert named == [["body", "pb_data", block] for block in missing]
    assert rows(folder)[i_account] == before


def test_an_account_that_was_closed_is_removed(database: Function, folder: Path) -> None:
    document = event()
    i_account = document["pb_data"]["account_info"]["i_account"]
    assert database.post(document).status_code == 202
    document["event_id"] += "-2"
    document["updated_at"] = "2025-03-12T16:48:00.000000+00:00"
    document["data"]["event_type"] = "Account/Status/Closed"
    document["pb_data"] = {"account_info": None, "sim_info": None}
    assert database.post(document).status_code == 202
    assert i_account not in rows(folder)


def test_a_sim_card_that_was_swapped_is_followed(database: Function, folder: Path) -> None:
    document = event()
    i_account = document["pb_data"]["account_info"]["i_account"]
    assert database.post(document).status_code == 202
    document["event_id"] += "-2"
    document["updated_at"] = "2025-03-12T16:48:00.000000+00:00"
    document["pb_data"]["sim_info"]["imsi"] = "001019999999999"
    assert database.post(document).status_code == 202
    assert rows(folder)[i_account]["imsi"] == "001019999999999"
    late = event()
    late["data"]["variables"] = document["data"]["variables"]
    late["pb_data"]["account_info"]["i_account"] = i_account
    answer = database.post(late)
    assert (answer.status_code, answer.json()["outcome"]) == (202, "superseded")
    assert rows(folder)[i_account]["imsi"] == "001019999999999"


def test_the_same_event_many_times_at_once(core: Function, system: System) -> None:
    document = event()
    with ThreadPoolExecutor(8) as pool:
        codes = [a.status_code for a in pool.map(lambda _: core.post(document), range(16))]
    assert set(codes) == {202}
    imsi = document["pb_data"]["sim_info"]["imsi"]
    assert system.written.count(f"/{imsi}") == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)
PATHS = (
    ("event_id",), ("data",), ("data", "event_type"), ("data", "variables"),
    ("data", "variables", "i_account"), ("pb_data",), ("pb_data", "account_info"),
    ("pb_data", "sim_info"), ("pb_data", "account_info", "service_features"), ("updated_at",),
    ("pb_data", "sim_info", "imsi"), ("pb_data", "account_info", "firstname"), ("created_at",),
)  # fmt: skip
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(path=st.sampled_from(PATHS), value=json_values)
def test_no_member_of_an_event_brings_it_down(database: Function, path: Any, value: Any) -> None:
    document = event()
    within = document
    for part in path[:-1]:
        within = within[part]
    within[path[-1]] = value
    _is_an_answer(database.post(document))


@FUZZ
@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_brings_it_down(database: Function, body: bytes) -> None:
    _is_an_answer(database.post(body))


def _is_an_answer(answer: requests.Response) -> None:
    assert answer.status_code in (202, 422), answer.text
    if answer.status_code == 422:
        is_error(answer, 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /process-event HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n",
        b"POST /process-event HTTP/1.1\r\nHost: x\r\nAuthorization Bearer %s\r\n\r\n"
        % TOKEN.encode(),
        b"POST /process-event HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_does_it_no_harm(database: Function, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", database.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while connection.recv(65536):
                pass
    assert requests.get(f"{database.url}/health", timeout=10).status_code == 200
    assert TOKEN not in database.log.read_text()


def test_nothing_private_is_in_the_logs(database: Function, core: Function) -> None:
    """Runs last: everything above has been logged."""
    for function in (database, core):
        log = function.log.read_text()
        assert log.count('"severity"') > 10
        for private in (TOKEN, SECRET, NAME, "001010000020349", "79123456789"):
            assert private not in log, private
        assert not re.search(r"Traceback \(most recent call last\)\n", log), "outside the JSON"
