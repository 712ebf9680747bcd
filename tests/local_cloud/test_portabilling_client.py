"""The PortaBilling client, the reader and the status API against the sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nsps.domain.event import EspfEvent, Owner
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block, PbData
from nsps.espf.status_api import EspfStatusApi
from nsps.portabilling.client import PortaBilling, ServicePaths
from nsps.portabilling.errors import AUTH_CODES, BadAnswer, LoginRefused, NotFound
from nsps.portabilling.login import ApiCredentials
from nsps.portabilling.reader import Reader
from nsps_local.sandbox.faults import Fault
from nsps_local.sandbox.server import Sandbox

ALL = frozenset(Block)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path, config={"webhook": {"enabled": False}}) as started:
        yield started


@pytest.fixture
def client(sandbox: Sandbox) -> PortaBilling:
    admin = sandbox.config.admin
    given = ApiCredentials(admin.login, admin.password.get_secret_value())
    return PortaBilling(sandbox.url, lambda: given, timeout_seconds=5)


@pytest.fixture
def reader(client: PortaBilling) -> Iterator[Reader]:
    reader = Reader(client)
    yield reader
    reader.close()


@pytest.fixture
def account(sandbox: Sandbox) -> dict[str, Any]:
    store = sandbox.store
    product = store.value("SELECT min(i_product) FROM products WHERE addon_priority = 0")
    addon = store.value("SELECT min(i_product) FROM products WHERE addon_priority > 0")
    customer = store.value("SELECT min(i_customer) FROM customers")
    card = store.value("SELECT min(i_sim_card) FROM sim_cards")
    made = sandbox.billing.add_account("447700900999", customer, product, card, firstname="Ada")
    sandbox.billing.add_addon(made["i_account"], addon)
    return {**made, "i_sim_card": card}


def read(reader: Reader, account: dict[str, Any], **variables: Any) -> PbData:
    event = EspfEvent("SIM/Updated", {"i_account": account["i_account"], **variables})
    return reader.read(event, Owner("account", str(account["i_account"])), ALL)


def test_a_whole_subscriber(reader: Reader, account: dict[str, Any]) -> None:
    pb = read(reader, account)
    assert set(pb.to_contract()) == {block.value for block in ALL - {Block.PREV_SIM_INFO}}
    assert pb.account_info is not None
    assert pb.account_info.id == "447700900999@msisdn"
    assert (pb.account_info.bill_status, pb.account_info.status) == ("open", "active")
    assert pb.account_info.blocked is False
    assert len(pb.account_info.assigned_addons) == 1
    assert "T" in (pb.account_info.assigned_addons[0].addon_effective_from or "")
    assert pb.sim_info is not None
    assert pb.sim_info.i_sim_card == account["i_sim_card"]
    assert pb.sim_info.imsi
    assert len(pb.sim_info.imsi) == 15
    assert pb.access_policy_info is not None
    assert pb.access_policy_info.attributes
    assert pb.product_info is not None
    assert pb.product_info.addon_priority == 0
    assert pb.full_vd_counter_info
    assert pb.customer_info is not None


def test_no_secret_of_the_raw_answers_is_in_the_message(
    sandbox: Sandbox, reader: Reader, account: dict[str, Any]
) -> None:
    written = json.dumps(read(reader, account).to_contract())
    raw = sandbox.store.row("SELECT * FROM accounts WHERE i_account = ?", account["i_account"])
    card = sandbox.store.row("SELECT * FROM sim_cards WHERE i_account = ?", account["i_account"])
    assert raw
    assert card
    secrets = [raw["h323_password"]]
    secrets += [str(card[name]) for name in card if name in ("ki", "opc", "puk1", "puk2")]
    assert len(secrets) >= 3
    for secret in secrets:
        assert secret not in written
    assert len(written) < 8000


def test_changes_show(sandbox: Sandbox, reader: Reader, account: dict[str, Any]) -> None:
    i_account = account["i_account"]
    sandbox.billing.block_account(i_account)
    pb = read(reader, account)
    assert pb.account_info is not None
    assert (pb.account_info.blocked, pb.account_info.status) == (True, "blocked")
    sandbox.billing.release_sim(i_account)
    pb = read(reader, account, prev_i_sim_card=account["i_sim_card"])
    assert pb.sim_info is None
    assert pb.prev_sim_info is not None
    assert pb.prev_sim_info.i_sim_card == account["i_sim_card"]
    assert pb.prev_sim_info.i_account is None
    pb = read(reader, account, prev_imsi="001010000000077")
    assert pb.prev_sim_info is not None
    assert pb.prev_sim_info.imsi == "001010000000077"


@pytest.mark.parametrize("unknown", ["fault", "null"])
def test_an_account_that_is_not_there(sandbox: Sandbox, reader: Reader, unknown: str) -> None:
    sandbox.reconfigure({"api": {"unknown": unknown}})
    assert read(reader, {"i_account": 999_999}).to_contract() == {}


def test_an_empty_answer_says_that_an_account_is_not_there_where_that_is_configured(
    sandbox: Sandbox, reader: Reader
) -> None:
    sandbox.reconfigure({"api": {"unknown": "empty"}})
    with pytest.raises(BadAnswer, match="empty answer"):
        read(reader, {"i_account": 999_999})
    empty = ("account_info", "sim_card_info", "full_vd_counter_info")
    given = ApiCredentials("nsps", token="sandbox-api-token")
    absence = {what: frozenset({"empty"}) for what in empty}
    configured = Reader(PortaBilling(sandbox.url, lambda: given, absence=absence))
    assert read(configured, {"i_account": 999_999}).to_contract() == {}
    configured.close()


def test_other_owners(sandbox: Sandbox, reader: Reader, account: dict[str, Any]) -> None:
    sim = Owner("sim", str(account["i_sim_card"]))
    assert reader.account_behind(sim) == Owner("account", str(account["i_account"]))
    assert set(reader.read_owner(sim, ALL).to_contract()) >= {"sim_info", "account_info"}
    free = sandbox.store.value("SELECT max(i_sim_card) FROM sim_cards")
    assert set(reader.read_owner(Owner("sim", str(free)), ALL).to_contract()) == {"sim_info"}


def test_tokens_that_die_are_not_noticed(
    sandbox: Sandbox, reader: Reader, account: dict[str, Any]
) -> None:
    whole = read(reader, account)
    for code in sorted(AUTH_CODES):
        sandbox.sessions.kill_all(code, refresh_tokens=False)
        assert read(reader, account) == whole
    sandbox.sessions.die_after(10)
    for _ in range(8):
        assert read(reader, account) == whole


@pytest.mark.parametrize("kind", ["html", "non_json", "empty", "bad_gateway", "close"])
def test_trouble_is_transient_and_over_when_it_is_over(
    sandbox: Sandbox, reader: Reader, account: dict[str, Any], kind: Any
) -> None:
    whole = read(reader, account)
    sandbox.faults.add(Fault(fault=kind))
    with pytest.raises(Transient):
        read(reader, account)
    sandbox.faults.clear()
    assert read(reader, account) == whole


def test_a_server_that_hangs(
    sandbox: Sandbox, client: PortaBilling, account: dict[str, Any]
) -> None:
    client.timeout_seconds = 0.5
    sandbox.faults.add(Fault(fault="hang", seconds=10))
    began = time.monotonic()
    with pytest.raises(Transient):
        client.call("account_info", {"i_account": account["i_account"]})
    assert time.monotonic() - began < 8
    sandbox.faults.clear()


def test_login_refused_and_a_wrong_path(sandbox: Sandbox, client: PortaBilling) -> None:
    client.services = ServicePaths(sim_card_info="SIMCards/get_card_info")
    with pytest.raises(Transient, match="SIMCards/get_card_info") as caught:
        client.call("sim_card_info", {"i_sim_card": 1})
    assert not isinstance(caught.value, NotFound)
    sandbox.faults.add(Fault(fault="login_refused"))
    fresh = PortaBilling(sandbox.url, lambda: ApiCredentials("nsps", token="sandbox-api-token"))
    with pytest.raises(LoginRefused):
        fresh.call("customer_list", {})
    sandbox.faults.clear()
    assert fresh.call("customer_list", {})


def test_statuses(sandbox: Sandbox, client: PortaBilling, account: dict[str, Any]) -> None:
    i_account = account["i_account"]
    api = EspfStatusApi(client)
    api.post(i_account, "HSS", "OK", "x" * 9000)
    sandbox.sessions.kill_all()
    api.post(i_account, "HSS", "FAILED", "no")
    found = sandbox.statuses.history(i_account, "HSS")
    assert [(row["status"], len(row["message"])) for row in found] == [("OK", 4000), ("FAILED", 2)]
    with pytest.raises(Terminal):
        api.post(i_account, "CRM", "OK")
    with pytest.raises(Terminal):
        api.post(999_999, "HSS", "OK")
    assert api.ensure_group("CRM")
    assert not api.ensure_group("CRM")
    api.post(i_account, "CRM", "OK")
    sandbox.faults.add(Fault(fault="status_api_down"))
    with pytest.raises(Transient):
        api.post(i_account, "CRM", "OK")


def test_the_form_content_type(
    sandbox: Sandbox, client: PortaBilling, account: dict[str, Any]
) -> None:
    form = EspfStatusApi(client, "application/x-www-form-urlencoded")
    form.post(account["i_account"], "HSS", "IN_PROGRESS")
    assert sandbox.statuses.current(account["i_account"])["HSS"]["status"] == "IN_PROGRESS"


def test_an_answer_of_the_wrong_kind_names_the_service_path(
    sandbox: Sandbox, account: dict[str, Any]
) -> None:
    admin = sandbox.config.admin
    given = ApiCredentials(admin.login, admin.password.get_secret_value())
    paths = ServicePaths(sim_card_info="Account/get_account_info")
    reader = Reader(PortaBilling(sandbox.url, lambda: given, services=paths))
    with pytest.raises(BadAnswer, match="sim_card_info"):
        read(reader, account)
    reader.close()
