"""Kamailio and its PostgreSQL, as a phone sees them: it registers, or is refused.

First the connector alone, then the whole stack: what a webhook says decides who may register.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import psycopg
import pytest
import requests
from nsps.domain.outcome import Outcome
from nsps_local.daemons.kamailio import kamailio, kamailio_database
from nsps_local.daemons.postgresql import postgresql
from nsps_local.daemons.sip_phone import Phone
from nsps_testing.standard import ChaosProxy, UnderTheKit, make_context
from nsps_testing.waiting import wait_for

from functions.connectors.voip_kamailio.connector import VoipKamailio
from tests.connectors.test_voip_kamailio import (
    DOMAIN,
    KEY,
    USER,
    OfKamailio,
    settings_of,
    snapshot,
)
from tests.end_to_end.whole_stack import ROOT, WholeStack, configuration

pytestmark = pytest.mark.timeout(240)

PASSWORD = "kamailio-database-canary"


class Kamailio:
    """A Kamailio with its database. ``database``: where the PostgreSQL is."""

    def __init__(self, database: tuple[str, int]) -> None:
        self.database = database
        self._running = ExitStack()
        self.sip, self.rpc = 0, 0

    def start(self) -> None:
        """With an empty database, at the same ports as before."""
        ports = (self.sip, self.rpc) if self.sip else None
        url = kamailio_database(self.database)
        self.sip, self.rpc = self._running.enter_context(kamailio(url, ports))

    def lose(self) -> None:
        """It ends, and its database is gone."""
        self._running.close()
        with self.session("postgres") as session:
            session.execute("DROP DATABASE kamailio WITH (FORCE)")

    def session(self, name: str = "kamailio") -> psycopg.Connection[Any]:
        host, port = self.database
        return psycopg.connect(host=host, port=port, user="postgres", dbname=name, autocommit=True)

    def rows(self) -> list[tuple[Any, ...]]:
        with self.session() as session:
            return session.execute("SELECT * FROM subscriber").fetchall()

    def phone(self, number: str, password: str = "", key: str = KEY) -> Phone:
        """A phone with a password, or with that which is made from the handler's key."""
        user = f"{number}@{DOMAIN}"
        made = hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]
        return Phone(("127.0.0.1", self.sip), number, DOMAIN, password or made)

    def has_contact(self, number: str) -> bool:
        """Whether calls would reach a phone of this number."""
        asked = {"jsonrpc": "2.0", "method": "ul.lookup", "params": ["location", number], "id": 1}
        answer = requests.post(f"http://127.0.0.1:{self.rpc}/RPC", json=asked, timeout=10)
        return answer.status_code == 200


@pytest.fixture(scope="module")
def registrar() -> Iterator[Kamailio]:
    with postgresql() as address:
        made = Kamailio(address)
        with made.session("postgres") as session:
            session.execute(f"CREATE ROLE nsps LOGIN PASSWORD '{PASSWORD}'")
        made.start()
        yield made
        made.lose()


class TestKamailio(OfKamailio):
    """What breaks here is the way to the database."""

    pings_first = True
    deadline = 2.0  # libpq knows no shorter limit for a new connection
    changed_pb = snapshot(blocked=True)
    gone_pb = (snapshot(bill_status="terminated"), {"sim_info": snapshot()["sim_info"]})
    secrets: ClassVar = {"password_key": KEY, "password": PASSWORD}

    @pytest.fixture
    def system(self, registrar: Kamailio) -> Iterator[ChaosProxy]:
        self._rpc = f"http://127.0.0.1:{registrar.rpc}"
        with ChaosProxy(registrar.database) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        url = f"postgresql://nsps@{system.host}:{system.port}/kamailio"
        return {**settings_of(url, self._rpc), "status_column": "status"}

    def test_a_password_that_changed(self, system: ChaosProxy, registrar: Kamailio) -> None:
        other = "another-key-of-sufficient-length-77d1"
        old, new = registrar.phone(USER), registrar.phone(USER, key=other)
        for key, t in ((KEY, "01"), (other, "02")):
            settings = VoipKamailio.settings_model.model_validate(self.settings(system))
            secrets = {**self.secrets, "password_key": key}
            connector = VoipKamailio(settings, make_context(secrets))
            kit = UnderTheKit(self, connector)
            event = self.enriched(self.pb, t=f"2026-11-21T02:{t}:00.000000Z")
            assert kit.deliver(event) is Outcome.DELIVERED
            if key is KEY:
                assert (old.register(), new.register()) == (200, 401)
            connector.close()
        assert not registrar.has_contact(USER)  # it was registered with the old password
        assert (old.register(), new.register()) == (401, 200)

    def test_an_alias_is_a_subscriber_of_its_own(
        self, connector: VoipKamailio, registrar: Kamailio
    ) -> None:
        kit, alias = UnderTheKit(self, connector), "420777000044"
        main = self.enriched(self.pb)
        second = snapshot(i_account=1000890, id=alias, billing_model="alias")
        second["account_info"]["i_master_account"] = 1000889
        second["sim_info"] = None
        of_alias = self.enriched(second, variables={"i_event": 2})
        assert {kit.deliver(main), kit.deliver(of_alias)} == {Outcome.DELIVERED}
        phones = [registrar.phone(number) for number in (USER, alias)]
        assert [phone.register() for phone in phones] == [200, 200]
        gone = {"account_info": None, "sim_info": None}
        later = {"t": "2026-11-21T02:11:00.000000Z", "variables": {"i_event": 3}}
        removed = self.enriched(gone, owner=of_alias.owner, **later)
        assert kit.deliver(removed) is Outcome.DELIVERED
        assert [registrar.has_contact(number) for number in (USER, alias)] == [True, False]
        assert [phone.register() for phone in phones] == [200, 401]


# ---- the whole stack -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(registrar: Kamailio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    folder = tmp_path_factory.mktemp("kamailio")
    host, port = registrar.database
    settings = settings_of(
        f"postgresql://nsps@{host}:{port}/kamailio", f"http://127.0.0.1:{registrar.rpc}"
    )
    handler = {
        "name": "voip",
        "connector": "voip_kamailio",
        "events": ["SIM/*", "Account/*", "Account/*/*"],
        "group": "VoIP",
        "call_timeout_seconds": 3,
        "settings": {
            **settings,
            "status_column": "status",
            "credentials": {"source": "portabilling"},
        },
        "secrets": {"password": "kamailio-database"},
    }
    given = folder / "secrets.json"
    given.write_text(json.dumps({"kamailio-database": PASSWORD}))
    with WholeStack(folder / "state", configuration(folder, [handler]), given) as running:
        running.post("/sandbox/settings", events={"vocabulary": ["v1"]})  # these have no SIM card
        yield running


def subscriber(stack: WholeStack, registrar: Kamailio) -> tuple[int, Phone]:
    """A new account, and a phone with the password that PortaBilling has for it."""
    i_account = stack.new_account()
    password = f"service-password-{i_account}"
    stack.do("change_service_password", i_account=i_account, password=password)
    number = stack.accounts()[i_account]["id"].partition("@")[0]
    return i_account, registrar.phone(number, password)


def test_a_subscriber_from_the_first_day_to_the_last(
    stack: WholeStack, registrar: Kamailio
) -> None:
    (i_account, first), (another, other) = (subscriber(stack, registrar) for _ in range(2))
    number = first.user
    assert (first.register(), other.register()) == (200, 200)

    stack.do("change_service_password", i_account=i_account, password="another-one")
    phone = registrar.phone(number, "another-one")
    assert not registrar.has_contact(number)
    assert (first.register(), phone.register()) == (401, 200)

    stack.do("block_account", i_account=i_account)
    assert not registrar.has_contact(number)
    assert phone.register() == 403
    assert not registrar.has_contact(number)
    stack.do("unblock_account", i_account=i_account)
    assert phone.register() == 200

    changed = str(int(number) + 1)
    stack.do("change_account_id", i_account=i_account, msisdn=changed)
    moved = registrar.phone(changed, "another-one")
    assert not registrar.has_contact(number)
    assert (phone.register(), moved.register()) == (401, 200)

    stack.do("close_account", i_account=i_account)
    assert not registrar.has_contact(changed)
    assert (phone.register(), moved.register(), other.register()) == (401, 401, 200)
    assert stack.statuses(another) == {"VoIP": "OK"}

    written = repr(registrar.rows()) + "".join(stack.logs().values())
    for secret in (PASSWORD, first.password, phone.password, other.password):
        assert secret not in written


def test_a_kamailio_that_lost_its_database_is_filled_again(
    stack: WholeStack, registrar: Kamailio
) -> None:
    """It is away while events come; when it is back, it is empty."""
    (_, served), (blocked, barred), (closed, gone) = (
        subscriber(stack, registrar) for _ in range(3)
    )
    phones = [served, barred, gone]
    assert [phone.register() for phone in phones] == [200, 200, 200]
    registrar.lose()
    events = [
        *stack.sandbox.do("block_account", i_account=blocked)["events"],
        *stack.sandbox.do("close_account", i_account=closed)["events"],
    ]
    made = stack.add_account()
    given = {"i_account": made["i_account"], "password": "a-new-one"}
    events += [*made["events"], *stack.sandbox.do("change_service_password", **given)["events"]]
    phones.append(registrar.phone(made["id"].partition("@")[0], "a-new-one"))
    registrar.start()
    stack.all_finished(each["i_event"] for each in events)
    assert phones[0].register() == 401  # nothing was said of it meanwhile
    with registrar.session() as session:  # by hand, past NSPS
        session.execute("INSERT INTO subscriber (username, domain) VALUES ('eve', %s)", [DOMAIN])

    command = [sys.executable, "-m", "nsps_local.cli", "reconcile", "voip", "--all", "--fix"]
    done = subprocess.run(
        [*command, "--state", str(stack.state)],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert "missing" in done.stdout and "foreign" in done.stdout, done.stdout + done.stderr
    expected = [200, 403, 401, 200]
    wait_for(lambda: [phone.register() for phone in phones] == expected, 30, "the phones")
