"""Every connector of ours, served by its own ``POST /process-event``, is certified; so is each
description that is shipped.

Each is a real function in a process of its own, before the system that its tests have; between
the two is the certifier, which disturbs the system, and stops the function at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from nsps_local.described import Described, connectors_in, load_connector_file
from nsps_local.firestore import FirestoreServer
from nsps_local.manifest import Manifest
from nsps_local.order_manager import running as order_manager
from nsps_testing.faults import ScriptedHttp

from tests.certify.partner import TOKEN as PARTNERS_TOKEN
from tests.certify.partner import Partner, Served
from tests.end_to_end.function_process import FunctionProcess

ROOT = Path(__file__).parents[2]
TOKEN = "c0ntract-token-of-ours"
Host = tuple[str, int]
Behind = Callable[[Path], AbstractContextManager[Host]]
"""The system of a test; it is given a folder of its own."""


def module_of(connector: str) -> Any:
    """The module of its tests, which has a double of the system and settings for it."""
    return import_module(f"tests.connectors.{connector}")


def double(connector: str, name: str, **how: Any) -> Behind:
    """The double of the connector's own tests."""

    @contextmanager
    def served(_folder: Path) -> Iterator[Host]:
        with ScriptedHttp(getattr(module_of(connector), name)(**how)) as system:
            yield system.address

    return served


@contextmanager
def _orders(_folder: Path) -> Iterator[Host]:
    with order_manager("--token", PARTNERS_TOKEN) as url:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        yield parts.hostname, parts.port


@contextmanager
def _mail(_folder: Path) -> Iterator[Host]:
    server = module_of("test_notification").Server(module_of("test_notification").Inbox())
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
    with ScriptedHttp(module_of("test_sms_kannel").kannel) as system:
        yield system.address


@contextmanager
def _registrar(folder: Path) -> Iterator[Host]:
    """Kamailio's JSON-RPC; its database is a file where the function runs."""
    module_of("test_voip_kamailio").make_database(folder / "kamailio.db")
    with double("test_voip_kamailio", "Registrar")(folder) as rpc:
        yield rpc


@contextmanager
def _radius(_folder: Path) -> Iterator[Host]:
    with postgresql() as address:
        module_of("test_freeradius").make_tables(address)
        yield address


@contextmanager
def _powerdns(_folder: Path) -> Iterator[Host]:
    with import_module("tests.systems.test_powerdns").running() as (api, _dns):
        yield "127.0.0.1", api


@dataclass(frozen=True)
class Ours:
    """How one of ours is set up. ``settings``: given where its system is to be reached."""

    name: str
    settings: Callable[[str, int], dict[str, Any]]
    requires: list[str]
    system: Behind | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    messages: bool = False
    not_its_fault: frozenset[str] = frozenset()
    """Exemplary cases that fail because of the system that the tests have."""
    before: str = ""
    """Which system, where a connector is certified before several."""

    @property
    def label(self) -> str:
        return f"{self.name}-{self.before}" if self.before else self.name


OURS = [
    Ours(
        "crm_tryton",
        lambda host, port: {"url": f"http://{host}:{port}/crm/rpc/", "allow_http": True},
        ["account_info", "sim_info"],
        double("test_crm_tryton", "TrytonDouble"),
        {"credentials": "nsps:password-canary"},
    ),
    Ours(
        "crm_hubspot",
        lambda host, port: {"url": f"http://{host}:{port}", "allow_http": True},
        ["account_info", "sim_info"],
        double("test_rest_systems", "HubSpotDouble"),
        {"credentials": "pat-eu1-canary-4711"},
    ),
    Ours(
        "crm_salesforce",
        lambda host, port: {
            "url": f"http://{host}:{port}/services/data/v62.0",
            "allow_http": True,
            "fields": {"Name": "name", "NSPS_Status__c": "status"},
        },
        ["account_info", "sim_info"],
        double("test_rest_systems", "SalesforceDouble"),
        {"credentials": '{"client_id": "nsps-client", "client_secret": "client-secret-canary"}'},
    ),
    Ours(
        "database",
        lambda _host, _port: {"url": "sqlite:///subscribers.db", "create_table": True},
        ["account_info", "sim_info"],
        before="sqlite",
    ),
    Ours(
        "database",
        lambda host, port: {
            "url": f"postgresql://postgres@{host}:{port}/postgres",
            "create_table": True,
        },
        ["account_info", "sim_info"],
        lambda _folder: postgresql(),
        before="postgresql",
    ),
    Ours(
        "enum_powerdns",
        lambda host, port: {
            "url": f"http://{host}:{port}/api/v1/servers/localhost",
            "allow_http": True,
            "routing_number": "msisdn",
        },
        ["account_info", "sim_info"],
        _powerdns,
        {"credentials": "powerdns-key-canary"},
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
        {"password_key": "a-key-for-sip-passwords-of-40-characters", "coa_secret": PARTNERS_TOKEN},
    ),
    Ours(
        "hss_osmocom",
        lambda host, port: {"host": host, "port": port},
        ["account_info", "sim_info"],
        osmo_hlr,
    ),
    Ours(
        "hss_pyhss",
        lambda host, port: {"url": f"http://{host}:{port}", **module_of("test_hss_pyhss").SETTINGS},
        ["account_info", "sim_info"],
        double("test_hss_pyhss", "PyHssDouble", locked=False, loaded=True),
    ),
    Ours(
        "hss_wtl",
        lambda host, port: {"url": f"http://{host}:{port}", **module_of("test_hss_wtl").SETTINGS},
        ["account_info", "sim_info", "access_policy_info"],
        double("test_hss_wtl", "WtlDouble", token=PARTNERS_TOKEN),
        {"token": PARTNERS_TOKEN},
    ),
    Ours(
        "iptv_ministra",
        lambda host, port: {
            "url": f"http://{host}:{port}{module_of('test_iptv_ministra').BASE}",
            "allow_http": True,
            "tariffs": {"Pay as you go": "basic"},
        },
        ["account_info", "sim_info", "product_info"],
        double("test_iptv_ministra", "MinistraDouble"),
        {"credentials": "nsps:ministra-canary"},
    ),
    Ours(
        "iptv_tvheadend",
        lambda host, port: {
            "url": f"http://{host}:{port}",
            "allow_http": True,
            "tariffs": {
                "Pay as you go": {"channel_tags": [module_of("test_iptv_tvheadend").BASIC]}
            },
        },
        ["account_info", "sim_info", "product_info"],
        double("test_iptv_tvheadend", "TvheadendDouble"),
        {"credentials": "nsps:tvheadend-canary"},
    ),
    Ours(
        "li_x1",
        lambda host, port: {
            "url": f"http://{host}:{port}",
            "admf": module_of("network_element").ADMF,
            "ne": module_of("network_element").NE,
            "event_seconds": 0.05,
            "allow_http": True,
        },
        ["account_info", "sim_info"],
        double("network_element", "NetworkElement"),
        {"warrants": '{"key": "a-key-for-the-identifiers-of-tasks-0001", "warrants": []}'},
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
        {"credentials": PARTNERS_TOKEN, "callback": PARTNERS_TOKEN},
        # The sample order manager is served by Werkzeug, which closes after each answer.
        not_its_fault=frozenset({"system-connections"}),
    ),
    Ours(
        "rest",
        lambda host, port: {"url": f"http://{host}:{port}", **module_of("test_rest").DESCRIPTION},
        ["account_info", "sim_info"],
        double("test_rest", "Parties"),
        {"credentials": "party-token-canary"},
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
        {"password": "kannel-password-4711", "callback": "kannel-password-4711"},
        messages=True,
    ),
    Ours(
        "voip_kamailio",
        lambda host, port: {
            "database_url": "sqlite:///kamailio.db",
            "rpc_url": f"http://{host}:{port}/RPC",
            "domain": module_of("test_voip_kamailio").DOMAIN,
        },
        ["account_info", "sim_info"],
        _registrar,
        {"password_key": "a-key-for-sip-passwords-of-40-characters"},
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
        {"token": PARTNERS_TOKEN},
    ),
]

MANIFESTS = connectors_in(ROOT / "functions" / "connectors")


def test_none_is_left_out() -> None:
    assert {each.name for each in OURS} == MANIFESTS.keys()


@contextmanager
def function(
    ours: Ours, manifest: Manifest, folder: Path, settings: dict[str, Any]
) -> Iterator[tuple[str, int]]:
    """Its URL and process id, once it serves."""
    connector = ours.name
    if isinstance(manifest, Described):
        connector, settings = (
            MANIFESTS[ours.name].parents[1].name,
            dict(manifest.complete(settings)),
        )
    process = FunctionProcess(ROOT / "functions" / "connectors" / connector / "main.py", folder)
    database = FirestoreServer(folder / "firestore")
    database.start()
    handler = {
        "name": ours.name.replace("_", "-"),
        "connector": connector,
        "kind": manifest.kind[0],
        "receipts": manifest.receipts,
        "scheduled": manifest.scheduled,
        "events": ["*/*", "*/*/*"],
        "requires": ours.requires,
        "settings": settings,
        "secrets": {name: f"env:NSPS_TEST_SECRET_{name}" for name in ours.secrets},
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
        "NSPS_TEST_TOKEN": TOKEN,
        **{f"NSPS_TEST_SECRET_{name}": value for name, value in ours.secrets.items()},
    }
    try:
        with process:
            yield f"{process.url}/process-event", process.process.pid
    finally:
        database.stop()


def certified(ours: Ours, manifest: Manifest, folder: Path) -> list[Result]:
    event_types = [each for each in DOCUMENTED if wants(manifest.events, each)]

    def run(system: System | None, host: str, port: int) -> list[Result]:
        with function(ours, manifest, folder, ours.settings(host, port)) as (url, process):
            sender = Sender(Address.of(url), TOKEN)
            made = Run(sender, system, process, keeps_state=not ours.messages)
            return list(made.results(all_cases(Samples(datetime.now(UTC)), event_types)))

    if ours.system is None:
        return run(None, "", 0)
    with ours.system(folder) as target:
        system = System(("127.0.0.1", 0), target)
        try:
            return run(system, *system.proxy.address)
        finally:
            system.close()


@pytest.fixture(scope="module")
def certificates(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[Result]]]]:
    """The results by label. Most of a run is waiting for a system that hangs: three run at once."""
    chosen = {
        each.callspec.id
        for each in request.session.items
        if isinstance(each, pytest.Function) and each.function is test_it_is_certified
    }
    with ThreadPoolExecutor(3) as pool:
        yield {
            each.label: pool.submit(
                certified,
                each,
                load_connector_file(MANIFESTS[each.name]),  # which imports; so not in the threads
                tmp_path_factory.mktemp(each.label),
            )
            for each in OURS
            if each.label in chosen
        }


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ours", OURS, ids=lambda each: each.label)
def test_it_is_certified(ours: Ours, certificates: dict[str, Future[list[Result]]]) -> None:
    results = certificates[ours.label].result()
    level, tried = level_of(results), [each for each in results if each.state is not State.SKIPPED]
    seconds = sum(each.seconds for each in tried)
    print(f"{ours.label}: {level or 'none'}, {len(tried)} cases in {seconds:.1f} s")
    wrong = {each.case.name: each.complaints for each in tried if each.state is State.FAILED}
    assert wrong.keys() <= ours.not_its_fault, wrong
    assert level is (Level.ROBUST if wrong else Level.EXEMPLARY)
