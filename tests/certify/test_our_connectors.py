"""Every connector of ours, served by its own ``POST /process-event``, is certified.

Each is a real function in a process of its own, before the system that its tests have; between
the two is the certifier, which disturbs the system, and stops the function at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from nsps.domain.routing import wants
from nsps_local.certify.address import Address
from nsps_local.certify.case import Level, Result, State, level_of
from nsps_local.certify.cases import DOCUMENTED, all_cases
from nsps_local.certify.run import Run
from nsps_local.certify.samples import Samples
from nsps_local.certify.send import Sender
from nsps_local.certify.system import System
from nsps_local.daemons.osmo_hlr import osmo_hlr
from nsps_local.daemons.postgresql import postgresql
from nsps_local.firestore import FirestoreServer
from nsps_local.manifest import load
from nsps_local.order_manager import running as order_manager
from nsps_testing.faults import ScriptedHttp

from tests.certify.partner import TOKEN as PARTNERS_TOKEN
from tests.certify.partner import Partner, Served
from tests.connectors.test_hss_pyhss import SETTINGS as PYHSS_SETTINGS
from tests.connectors.test_hss_pyhss import PyHssDouble
from tests.connectors.test_notification import Inbox, Server
from tests.end_to_end.function_process import FunctionProcess

ROOT = Path(__file__).parents[2]
TOKEN = "c0ntract-token-of-ours"
SECRETS = {
    "NSPS_TEST_TOKEN": TOKEN,
    "NSPS_TEST_PARTNER": PARTNERS_TOKEN,
    "NSPS_TEST_TRYTON": "nsps:password-canary",
    "NSPS_TEST_MINISTRA": "nsps:ministra-canary",
    "NSPS_TEST_TVHEADEND": "nsps:tvheadend-canary",
    "NSPS_TEST_KANNEL": "kannel-password-4711",
    "NSPS_TEST_WARRANTS": '{"key": "a-key-for-the-identifiers-of-tasks-0001", "warrants": []}',
    "NSPS_TEST_SIP_KEY": "a-key-for-sip-passwords-of-40-characters",
}

Host = tuple[str, int]


@contextmanager
def _orders(_folder: Path) -> Iterator[Host]:
    with order_manager("--token", PARTNERS_TOKEN) as url:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        yield parts.hostname, parts.port


@contextmanager
def _pyhss(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(PyHssDouble(locked=False, loaded=True)) as system:
        yield system.address


@contextmanager
def _wtl(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(_wtl_tests().WtlDouble(token=PARTNERS_TOKEN)) as system:
        yield system.address


def _wtl_tests() -> Any:
    return import_module("tests.connectors.test_hss_wtl")


@contextmanager
def _mail(_folder: Path) -> Iterator[Host]:
    server = Server(Inbox())
    server.start()
    try:
        yield "127.0.0.1", server.port
    finally:
        server.stop()


@contextmanager
def _partner(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp() as system, Served(Partner(system.url)) as served:
        yield "127.0.0.1", served.server.server_port


@contextmanager
def _kannel(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(import_module("tests.connectors.test_sms_kannel").kannel) as system:
        yield system.address


@contextmanager
def _network_element(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(_network().NetworkElement()) as system:
        yield system.address


def _network() -> Any:
    return import_module("tests.connectors.network_element")


@contextmanager
def _parties(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(_rest().Parties()) as system:
        yield system.address


def _rest() -> Any:
    """What the declarative connector's own tests have: a described API."""
    return import_module("tests.connectors.test_rest")


@contextmanager
def _registrar(folder: Path) -> Iterator[Host]:
    """Kamailio's JSON-RPC; its database is a file where the function runs."""
    _kamailio().make_database(folder / "kamailio.db")
    with ScriptedHttp(_kamailio().Registrar()) as rpc:
        yield rpc.address


def _kamailio() -> Any:
    return import_module("tests.connectors.test_voip_kamailio")


@contextmanager
def _radius(_folder: Path) -> Iterator[Host]:
    with postgresql() as address:
        _freeradius().make_tables(address)
        yield address


def _freeradius() -> Any:
    return import_module("tests.connectors.test_freeradius")


@contextmanager
def _tryton(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(_trytons().TrytonDouble()) as system:
        yield system.address


def _trytons() -> Any:
    return import_module("tests.connectors.test_crm_tryton")


@contextmanager
def _ministra(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(_ministras().MinistraDouble()) as system:
        yield system.address


def _ministras() -> Any:
    return import_module("tests.connectors.test_iptv_ministra")


@contextmanager
def _tvheadend(_folder: Path) -> Iterator[Host]:
    with ScriptedHttp(_tvheadends().TvheadendDouble()) as system:
        yield system.address


def _tvheadends() -> Any:
    return import_module("tests.connectors.test_iptv_tvheadend")


@dataclass(frozen=True)
class Ours:
    """How one of ours is set up. ``settings``: given where its system is to be reached."""

    name: str
    settings: Callable[[str, int], dict[str, Any]]
    requires: list[str]
    system: Callable[[Path], AbstractContextManager[Host]] | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    messages: bool = False
    not_its_fault: frozenset[str] = frozenset()
    """Exemplary cases that fail because of the system that the tests have."""


OURS = [
    Ours(
        "crm_tryton",
        lambda host, port: {"url": f"http://{host}:{port}/crm/rpc/", "allow_http": True},
        ["account_info", "sim_info"],
        _tryton,
        {"credentials": "env:NSPS_TEST_TRYTON"},
    ),
    Ours(
        "database",
        lambda _host, _port: {"url": "sqlite:///subscribers.db", "create_table": True},
        ["account_info", "sim_info"],
    ),
    Ours(
        "freeradius",
        lambda host, port: {
            "database_url": f"postgresql://postgres@{host}:{port}/postgres",
            "usernames": ["account_info.id", "imsi"],
            "reply": {"Filter-Id": "product_info.name"},
        },
        ["account_info", "sim_info", "product_info"],
        _radius,
        {"password_key": "env:NSPS_TEST_SIP_KEY", "coa_secret": "env:NSPS_TEST_PARTNER"},
    ),
    Ours(
        "hss_osmocom",
        lambda host, port: {"host": host, "port": port},
        ["account_info", "sim_info"],
        osmo_hlr,
    ),
    Ours(
        "hss_pyhss",
        lambda host, port: {"url": f"http://{host}:{port}", **PYHSS_SETTINGS},
        ["account_info", "sim_info"],
        _pyhss,
    ),
    Ours(
        "hss_wtl",
        lambda host, port: {"url": f"http://{host}:{port}", **_wtl_tests().SETTINGS},
        ["account_info", "sim_info", "access_policy_info"],
        _wtl,
        {"token": "env:NSPS_TEST_PARTNER"},
    ),
    Ours(
        "iptv_ministra",
        lambda host, port: {
            "url": f"http://{host}:{port}{_ministras().BASE}",
            "allow_http": True,
            "tariffs": {"Pay as you go": "basic"},
        },
        ["account_info", "sim_info", "product_info"],
        _ministra,
        {"credentials": "env:NSPS_TEST_MINISTRA"},
    ),
    Ours(
        "iptv_tvheadend",
        lambda host, port: {
            "url": f"http://{host}:{port}",
            "allow_http": True,
            "tariffs": {"Pay as you go": {"channel_tags": [_tvheadends().BASIC]}},
        },
        ["account_info", "sim_info", "product_info"],
        _tvheadend,
        {"credentials": "env:NSPS_TEST_TVHEADEND"},
    ),
    Ours(
        "li_x1",
        lambda host, port: {
            "url": f"http://{host}:{port}",
            "admf": _network().ADMF,
            "ne": _network().NE,
            "event_seconds": 0.05,
            "allow_http": True,
        },
        ["account_info", "sim_info"],
        _network_element,
        {"warrants": "env:NSPS_TEST_WARRANTS"},
    ),
    Ours(
        "notification",
        lambda host, port: {
            "host": host,
            "port": port,
            "security": "none",
            "sender": "no-reply@example.net",
            "templates": {"SIM/*": {"subject": "Your SIM card", "text": "{{ msisdn }}"}},
        },
        ["account_info", "sim_info"],
        _mail,
        messages=True,
    ),
    Ours(
        "oms_tmf641",
        lambda host, port: {"url": f"http://{host}:{port}", "allow_http": True},
        ["account_info", "sim_info", "access_policy_info"],
        _orders,
        {"credentials": "env:NSPS_TEST_PARTNER", "callback": "env:NSPS_TEST_PARTNER"},
        # The sample order manager is served by Werkzeug, which closes after each answer.
        not_its_fault=frozenset({"system-connections"}),
    ),
    Ours(
        "rest",
        lambda host, port: {"url": f"http://{host}:{port}", **_rest().DESCRIPTION},
        ["account_info", "sim_info"],
        _parties,
        {"credentials": "env:NSPS_TEST_RESTS"},
    ),
    Ours(
        "sms_kannel",
        lambda host, port: {
            "url": f"http://{host}:{port}",
            "user": "nsps",
            "sender": "Example",
            "reports_url": "https://callbacks.example.net/sms",
            "allow_http": True,
            "templates": {"SIM/*": "Your SIM card: {{ msisdn }}"},
        },
        ["account_info", "sim_info"],
        _kannel,
        {"password": "env:NSPS_TEST_KANNEL", "callback": "env:NSPS_TEST_KANNEL"},
        messages=True,
    ),
    Ours(
        "voip_kamailio",
        lambda host, port: {
            "database_url": "sqlite:///kamailio.db",
            "rpc_url": f"http://{host}:{port}/RPC",
            "domain": _kamailio().DOMAIN,
        },
        ["account_info", "sim_info"],
        _registrar,
        {"password_key": "env:NSPS_TEST_SIP_KEY"},
    ),
    Ours(
        "webhook",
        lambda host, port: {
            "url": f"http://{host}:{port}/process-event",
            "allow_http": True,
            "ordering": "state",
            "permanent_codes": [422],
        },
        ["account_info", "sim_info", "access_policy_info", "product_info"],
        _partner,
        {"token": "env:NSPS_TEST_PARTNER"},
    ),
]

FOLDERS = {file.parent.name for file in (ROOT / "functions/connectors").glob("*/connector.yaml")}
CONNECTORS = [each for each in OURS if each.name in FOLDERS]


def test_none_is_left_out() -> None:
    assert {each.name for each in OURS} >= FOLDERS


@contextmanager
def function(ours: Ours, folder: Path, settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Its URL and process id, once it serves."""
    process = FunctionProcess(ROOT / "functions" / "connectors" / ours.name / "main.py", folder)
    database = FirestoreServer(folder / "firestore")
    database.start()
    manifest = load(ROOT / "functions" / "connectors" / ours.name / "connector.yaml")
    handler = {
        "name": ours.name.replace("_", "-"),
        "connector": ours.name,
        "kind": manifest.kind[0],
        "receipts": manifest.receipts,
        "scheduled": manifest.scheduled,
        "events": ["*/*", "*/*/*"],
        "requires": ours.requires,
        "settings": settings,
        "secrets": ours.secrets,
        "contract_token": "env:NSPS_TEST_TOKEN",
        "call_timeout_seconds": 2.0,
    }
    process.environ = {
        "FIRESTORE_EMULATOR_HOST": database.target,
        "GOOGLE_CLOUD_PROJECT": "demo",
        "NSPS_DEPLOYMENT": "demo",
        "NSPS_FUNCTION": str(handler["name"]),
        "NSPS_DATABASE": "(default)",
        "NSPS_DIGEST_KEY": "env:NSPS_TEST_TOKEN",
        "NSPS_PUSH": json.dumps(
            {"audience": process.url, "service_account": "invoker@demo.example"}
        ),
        "NSPS_PORTABILLING": json.dumps({"url": "http://127.0.0.1:1", "credentials": "env:X"}),
        "NSPS_HANDLER": json.dumps(handler),
        "NSPS_EVENTS_TOPIC": "projects/demo/topics/espf-events",
        **SECRETS,
    }
    if ours.name == "rest":
        process.environ["NSPS_TEST_RESTS"] = _rest().TOKEN
    try:
        with process:
            yield f"{process.url}/process-event", process.process.pid
    finally:
        database.stop()


def certified(ours: Ours, folder: Path) -> list[Result]:
    def run(system: System | None, host: str, port: int) -> list[Result]:
        with function(ours, folder, ours.settings(host, port)) as (url, process):
            sender = Sender(Address.of(url), TOKEN)
            made = Run(sender, system, process, keeps_state=not ours.messages)
            return list(made.results(all_cases(Samples(datetime.now(UTC)), event_types)))

    manifest = load(ROOT / "functions" / "connectors" / ours.name / "connector.yaml")
    event_types = [each for each in DOCUMENTED if wants(manifest.events, each)]

    if ours.system is None:
        return run(None, "", 0)
    with ours.system(folder) as target:
        system = System(("127.0.0.1", 0), target)
        try:
            return run(system, *system.proxy.address)
        finally:
            system.close()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ours", CONNECTORS, ids=lambda each: each.name)
def test_it_is_certified(ours: Ours, tmp_path: Path) -> None:
    results = certified(ours, tmp_path)
    wrong = {each.case.name: each.complaints for each in results if each.state is State.FAILED}
    assert wrong.keys() <= ours.not_its_fault, wrong
    assert level_of(results) in ((Level.ROBUST,) if wrong else (Level.EXEMPLARY,))
