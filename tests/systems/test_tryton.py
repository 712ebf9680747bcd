"""The Tryton connector against a real Tryton on PostgreSQL; what it holds is read by SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from nsps.domain.outcome import Terminal, Transient, Unclear
from nsps_local.daemons.postgresql import postgresql
from nsps_local.daemons.tryton import add_user, as_admin, tryton, tryton_database
from nsps_testing.standard import (
    ChaosProxy,
    StateStandardTests,
    enriched,
    make_call,
    rotated_parts,
)
from nsps_testing.waiting import wait_for

from functions.connectors.crm_tryton.connector import CrmTryton
from functions.connectors.crm_tryton.settings import Settings
from tests.end_to_end.whole_stack import WholeStack, configuration

pytestmark = pytest.mark.timeout(240)

Address = tuple[str, int]
PASSWORD = "nsps-canary-4711"
CREDENTIALS = f"nsps:{PASSWORD}"
PARTIES = (
    "SELECT p.code, p.name, p.active, array_agg(c.type || ' ' || c.value ORDER BY c.type)"
    " FROM party_party p LEFT JOIN party_contact_mechanism c ON c.party = p.id"
    " WHERE p.code LIKE 'PB-%' GROUP BY p.id ORDER BY p.id"
)


def snapshot(i_account: int = 1000889, **account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": i_account,
            "id": "420777000003@msisdn",
            "firstname": "Zoë",
            "lastname": "O'Hara",
            "email": "zoe@Example.net",
            "bill_status": "open",
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with postgresql() as address:
        tryton_database(address)
        yield address


@pytest.fixture(scope="module")
def port(server: Address) -> Iterator[int]:
    with tryton(server) as port:
        add_user(port, PASSWORD)
        yield port


@pytest.fixture
def sql(server: Address, port: int) -> Iterator[psycopg.Connection[Any]]:
    with database(server) as session:
        session.execute("DELETE FROM party_party")  # of a request that hung until now
        yield session
        session.execute("DELETE FROM party_party")


def database(server: Address) -> psycopg.Connection[Any]:
    host, port = server
    return psycopg.connect(host=host, port=port, user="postgres", dbname="crm", autocommit=True)


class TestTryton(StateStandardTests):
    connector_class = CrmTryton
    pb = snapshot()
    changed_pb = snapshot(lastname="Quick", email=None, id="+12025550123")
    gone_pb = ({"sim_info": pb["sim_info"]}, snapshot(bill_status="terminated"))
    secrets: ClassVar = {"credentials": CREDENTIALS}
    canaries = (PASSWORD,)

    @pytest.fixture
    def system(self, port: int, sql: psycopg.Connection[Any]) -> Iterator[ChaosProxy]:
        with ChaosProxy(("127.0.0.1", port)) as proxy:
            yield proxy

    def tidy(self, connector: Any) -> None:
        self.remove(connector, "PB-1000889")

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {"url": f"http://{system.host}:{system.port}/crm/rpc/", "allow_http": True}

    def test_a_party_s_life(self, connector: CrmTryton, sql: psycopg.Connection[Any]) -> None:
        """Created, changed, closed, opened again: one party all the time; what people add stays."""
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        contacts = ["email zoe@example.net", "mobile +420 777 000 003"]
        assert sql.execute(PARTIES).fetchall() == [("PB-1000889", "Zoë O'Hara", True, contacts)]
        sql.execute(
            "INSERT INTO party_contact_mechanism (party, type, value, value_compact, active)"
            " SELECT id, 'email', 'sales@acme.example', 'sales@acme.example', true FROM party_party"
        )
        [other] = connector.desired(enriched(self.changed_pb)).values()
        self.bring(connector, key, other)
        contacts = ["email sales@acme.example", "mobile +1 202-555-0123"]
        assert sql.execute(PARTIES).fetchall() == [(key, "Zoë Quick", True, contacts)]
        self.remove(connector, key)
        assert sql.execute(PARTIES).fetchall() == [(key, "Zoë Quick", False, contacts)]
        self.bring(connector, key, state)
        contacts = ["email sales@acme.example", "email zoe@example.net", "mobile +420 777 000 003"]
        assert sql.execute(PARTIES).fetchall() == [(key, "Zoë O'Hara", True, contacts)]

    def test_a_lost_race_for_the_code_makes_no_second_party(
        self, system: ChaosProxy, sql: psycopg.Connection[Any]
    ) -> None:
        rivals = [self.make(self.settings(system)) for _ in range(4)]
        [(key, state)] = rivals[0].desired(enriched(self.pb)).items()

        def create(rival: CrmTryton) -> Exception | None:
            return self.attempt(lambda: rival.create(key, state, make_call()))

        with ThreadPoolExecutor(4) as pool:
            errors = list(pool.map(create, rivals))
        assert all(isinstance(error, Transient | None) for error in errors)
        self.bring(rivals[0], key, state)
        contacts = ["email zoe@example.net", "mobile +420 777 000 003"]
        assert sql.execute(PARTIES).fetchall() == [(key, "Zoë O'Hara", True, contacts)]

    def test_of_two_contacts_of_ours_one_stays(
        self, connector: CrmTryton, sql: psycopg.Connection[Any]
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        sql.execute(
            "INSERT INTO party_contact_mechanism (party, type, name, value, value_compact, active)"
            " SELECT id, 'email', 'PortaBilling', 'a@b.example', 'a@b.example', true"
            " FROM party_party"
        )
        held = connector.read(key, make_call())
        assert held is not None and held["email"] == "zoe@example.net, a@b.example"
        self.bring(connector, key, state)
        self.assert_holds(connector, key, state)

    def test_one_that_was_made_inactive_or_removed_meanwhile_is_read_again(
        self, connector: CrmTryton, sql: psycopg.Connection[Any]
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        for by_hand in ("UPDATE party_party SET active = false", "DELETE FROM party_party"):
            self.bring(connector, key, state)
            was = connector.read(key, make_call())
            assert was is not None
            sql.execute(by_hand)
            error = self.provoke(lambda was=was: connector.change(key, state, was, make_call()))  # type: ignore[misc]
            assert isinstance(error, Transient)
            self.bring(connector, key, state)
            self.assert_holds(connector, key, state)

    def test_a_session_that_is_over_is_opened_again(
        self, connector: CrmTryton, sql: psycopg.Connection[Any]
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        for _ in range(2):
            sql.execute("DELETE FROM ir_session")
            self.assert_holds(connector, key, state)
        assert sql.execute("SELECT count(*) FROM ir_session").fetchone() == (1,)

    def test_a_wrong_password_is_tried_again_only_where_it_was_corrected(
        self, system: ChaosProxy, sql: psycopg.Connection[Any]
    ) -> None:
        settings = Settings.model_validate(self.settings(system))
        corrected = rotated_parts("credentials", "nsps:old-password", CREDENTIALS)
        CrmTryton(settings, corrected).check(make_call())
        wrong = rotated_parts("credentials", "nsps:old-password", "nsps:old-password")
        error = self.provoke(lambda: CrmTryton(settings, wrong).check(make_call()))
        assert isinstance(error, Transient) and "401" in str(error)
        assert "old-password" not in str(error)
        assert sql.execute("SELECT count(*) FROM res_user_login_attempt").fetchone() == (1,)
        sql.execute("DELETE FROM res_user_login_attempt")

    @pytest.mark.parametrize(
        ("account", "message"),
        [
            ({"id": "420000000000"}, "phone number .* is not valid"),
            ({"firstname": "\0"}, "NUL"),
        ],
    )
    def test_what_tryton_does_not_take_is_refused_for_good(
        self,
        connector: CrmTryton,
        sql: psycopg.Connection[Any],
        account: dict[str, Any],
        message: str,
    ) -> None:
        [(key, state)] = connector.desired(enriched(snapshot(**account))).items()
        with pytest.raises(Terminal, match=message):
            connector.create(key, state, make_call())
        assert sql.execute(PARTIES).fetchall() == []

    def test_a_field_that_party_has_not_is_the_settings_fault(self, system: ChaosProxy) -> None:
        connector = self.make({**self.settings(system), "fields": {"shoe_size": "name"}})
        with pytest.raises(Transient, match="no field shoe_size: correct the setting"):
            connector.check(make_call())
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        with pytest.raises(Unclear, match=r"shoe_size.*every field of the settings"):
            connector.create(key, state, make_call())

    def test_a_user_who_may_not_write(self, connector: CrmTryton, port: int) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        access = {"model": "party.party", "perm_read": True, "perm_create": False}
        [made] = as_admin(port, "model.ir.model.access.create", [access], {})
        try:
            with pytest.raises(Transient, match="may this user do that"):
                connector.create(key, state, make_call())
        finally:
            as_admin(port, "model.ir.model.access.delete", [made], {})

    def test_all_are_listed_whatever_the_length_of_their_codes(
        self, connector: CrmTryton, sql: psycopg.Connection[Any]
    ) -> None:
        accounts = (10, 9, 100, 11)
        for i_account in accounts:
            [(key, state)] = connector.desired(enriched(snapshot(i_account))).items()
            connector.create(key, state, make_call())
        self.remove(connector, "PB-100")
        sql.execute("INSERT INTO party_party (code, name, active) VALUES ('7', 'Acme', true)")
        found: list[str] = []
        after = ""
        while page := connector.keys(after, 2, make_call()):
            found += page
            after = page[-1]
        assert found == ["PB-10", "PB-9", "PB-11"]


def test_a_tryton_whose_database_is_lost_is_filled_again(server: Address, tmp_path: Path) -> None:
    """While events flow Tryton ends, and comes back with an empty database."""
    handler = {
        "name": "crm",
        "connector": "crm_tryton",
        "events": ["SIM/*", "Account/*", "Account/*/*"],
        "group": "CRM",
        "secrets": {"credentials": "tryton-user"},
    }
    given = tmp_path / "secrets.json"
    given.write_text(json.dumps({"tryton-user": CREDENTIALS}))

    with ExitStack() as ends:
        tryton_database(server)
        crm = ends.enter_context(ExitStack())
        port = crm.enter_context(tryton(server))
        add_user(port, PASSWORD)
        # The sandbox's numbers are of no country, so no phone numbers to Tryton.
        settings = {"url": f"http://127.0.0.1:{port}/crm/rpc/", "allow_http": True}
        settings["contacts"] = {"other": "msisdn"}
        config = configuration(tmp_path, [handler | {"settings": settings}])
        stack = WholeStack(tmp_path / "state", config, given)
        ends.callback(stack.stop)
        stack.start()

        def held() -> dict[str, tuple[str, bool, list[str]]]:
            with database(server) as sql:
                return {code: tuple(rest) for code, *rest in sql.execute(PARTIES).fetchall()}

        kept, closed = (
            stack.new_account(stack.new_card()["i_sim_card"], firstname="Ada", lastname=name)
            for name in ("One", "Two")
        )
        number = stack.accounts()[kept]["id"].partition("@")[0]
        party = ("Ada One", True, [f"other {number}"])
        assert held()[f"PB-{kept}"] == party
        crm.close()
        events = stack.sandbox.do("close_account", i_account=closed)["events"]
        tryton_database(server)
        crm.enter_context(tryton(server, port))
        add_user(port, PASSWORD)
        stack.all_finished(each["i_event"] for each in events)
        assert held() == {}
        done = stack.nsps("reconcile", "crm", "--all", "--fix")
        assert "missing" in done.stdout, done.stdout + done.stderr
        wait_for(lambda: f"PB-{kept}" in held(), 30, "the party to be there again")
        assert held()[f"PB-{kept}"] == party
        assert f"PB-{closed}" not in held()
        assert stack.statuses(kept)["CRM"] == "OK"
        assert not any(PASSWORD in text for text in stack.logs().values())
