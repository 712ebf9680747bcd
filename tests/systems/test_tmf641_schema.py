"""Every kind of TMF641 request that we make, and every notification of the order manager, judged
by Prism against the description of the standard (see prism/README.md)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps.connector.base import Action, Order
from nsps.domain.event import Owner
from nsps.domain.outcome import Terminal
from nsps_local.order_manager import OrderManager
from nsps_testing import waiting
from nsps_testing.standard import make_call, make_context

from functions.connectors.oms_tmf641 import tmf641
from functions.connectors.oms_tmf641.connector import OrderManagement
from functions.connectors.oms_tmf641.settings import Settings

FOLDER = Path(__file__).parent / "prism"
PRISM = FOLDER / "node_modules/@stoplight/prism-cli/dist/index.js"
DESCRIPTION = os.environ.get("NSPS_TMF641_DESCRIPTION", str(FOLDER / "tmf641.yaml"))
STATE = {
    "iccid": "8970101000000203493",
    "serviceGranted": True,
    "profiles": ["a", "b"],
    "level": 3,
    "epsProfile": None,
}

pytestmark = pytest.mark.skipif(
    not PRISM.exists(), reason="Prism is not installed: npm ci --prefix tests/systems/prism"
)


@pytest.fixture(scope="module")
def prism() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # node itself, not npx: ending npx would leave node alive
    command = ["node", str(PRISM), "mock", "-h", "127.0.0.1", "-p", str(port), DESCRIPTION]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "Prism ended"
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("Prism did not start")


def violations(answer: requests.Response) -> list[Any]:
    """What Prism found wrong with a request: it says so in a header, or with 4xx."""
    found = json.loads(answer.headers.get("sl-violations", "[]"))
    return [each for each in found if each["location"][0] == "request"]


def connector(prism: str, **settings: Any) -> OrderManagement:
    # Prism serves the paths without the base path.
    model = Settings(url=prism, ordering_path="", allow_http=True, look_first=False, **settings)
    return OrderManagement(model, make_context({"credentials": "token-of-ours"}))


def order(action: Action, key: str = "imsi:001010000020349") -> Order:
    return Order(key, action, STATE, f"ref-{action}", Owner("account", "189"), "HSS")


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("full", [True, False])
def test_orders_are_as_the_standard_has_them(prism: str, action: Action, full: bool) -> None:
    more = {
        "category": "Mobile",
        "priority": "1",
        "service_type": "CFS",
        "service_specification": "spec-1",
    }
    made = connector(prism, **(more if full else {}))
    assert made.submit(order(action), make_call())
    assert made.submit(order(action, key="account:189"), make_call())


def test_the_other_requests_are_as_the_standard_has_them(prism: str) -> None:
    made = connector(prism)
    made.check(make_call())
    for path in ("serviceOrder/SO-1", "serviceOrder?externalId=ref-1&limit=10"):
        answer = requests.get(f"{prism}/{path}", timeout=10)
        assert answer.status_code == 200
        assert violations(answer) == []
    hub = requests.post(
        f"{prism}/hub", json={"callback": "https://nsps.example.net/oms"}, timeout=10
    )
    assert hub.status_code == 201
    assert violations(hub) == []


WRONG: dict[str, dict[str, Any]] = {
    "no item": {"externalId": "x"},
    "action": {"serviceOrderItem": [{"id": "1", "action": "explode", "service": {}}]},
    "characteristic": {
        "serviceOrderItem": [
            {"id": "1", "action": "add", "service": {"serviceCharacteristic": [{"name": "x"}]}}
        ]
    },
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_prism_does_find_what_is_wrong(
    prism: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge judges: what we would do wrong is seen, and read as a refusal for good."""
    body = WRONG[wrong]
    monkeypatch.setattr(tmf641, "standard_order", lambda _order, _settings: body)
    with pytest.raises(Terminal, match=r"answered (400|422)"):
        connector(prism).submit(order(Action.ADD), make_call())


@pytest.mark.parametrize("behaviour", ["normal", "fail", "partial", "reject", "cancel", "noise"])
def test_the_order_managers_notifications_are_as_the_standard_has_them(
    prism: str, behaviour: str
) -> None:
    manager = OrderManager(prism, behaviour=behaviour, delay=0.01)
    try:
        service = {"id": "x", "serviceCharacteristic": [{"name": "imsi", "value": "1"}]}
        item = {"id": "1", "action": "add", "service": service}
        manager.order({"externalId": "r", "serviceOrderItem": [item]}, "tmf641")
        wanted = 7 if behaviour == "noise" else 2
        waiting.wait_for(lambda: len(manager.notifications()) >= wanted)
        sent = manager.notifications()
    finally:
        manager.close()
    assert {each.status for each in sent} == {201}, "Prism answers 4xx where a body is not right"
