"""The connector voip_kamailio: the standard tests on SQLite and a double of Kamailio's JSON-RPC.

The double answers as Kamailio 5.6.3 was recorded to: errors are always a 500, ``ul.rm`` is done
even where nobody is registered, and broken JSON closes the connection.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
from nsps.connector.base import Call
from nsps.domain.outcome import Outcome, Terminal, Transient, Unclear
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    UnderTheKit,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.voip_kamailio.connector import ANSWERS, VoipKamailio
from functions.connectors.voip_kamailio.settings import Settings

KEY = "a-sample-key-of-sufficient-length-51c7"
DOMAIN = "sip.example.net"
USER = "420777000003"
SUBSCRIBER = f"{USER}@{DOMAIN}"
TABLE = """CREATE TABLE subscriber (
    id INTEGER PRIMARY KEY, username VARCHAR(64) DEFAULT '' NOT NULL,
    domain VARCHAR(64) DEFAULT '' NOT NULL, password VARCHAR(64) DEFAULT '' NOT NULL,
    ha1 VARCHAR(128) DEFAULT '' NOT NULL, ha1b VARCHAR(128) DEFAULT '' NOT NULL,
    display VARCHAR(64), status VARCHAR(16), UNIQUE (username, domain))"""


def make_database(file: Path) -> None:
    with sqlite3.connect(file) as session:
        session.execute(TABLE)


def fault(message: str) -> Reply:
    error = {"code": 500, "message": message}
    return Reply(500, {"jsonrpc": "2.0", "error": error, "id": 1})


ABSENT = fault("AOR not found in location table")


class Registrar:
    """Kamailio's JSON-RPC: who is registered."""

    def __init__(self) -> None:
        self.location: set[str] = set()
        self.removed: list[str] = []

    def __call__(self, request: Seen) -> Reply:
        try:
            asked = request.json()
            method, (table, aor) = asked["method"], asked["params"]
        except ValueError:
            return Reply(fault="close")
        assert (request.method, request.path, table) == ("POST", "/RPC", "location")
        if method == "ul.rm":
            self.location.discard(aor)
            self.removed.append(aor)
            return Reply(200, {"jsonrpc": "2.0", "result": {}, "id": asked["id"]})
        if method != "ul.lookup":
            return fault("Method Not Found")
        found = {"jsonrpc": "2.0", "result": {"AoR": aor, "Contacts": []}, "id": asked["id"]}
        return Reply(200, found) if aor in self.location else ABSENT


def snapshot(**account: Any) -> dict[str, Any]:
    """An account with a SIM card, as in pb_data of the NSPS contract."""
    usual = {"i_account": 1000889, "id": f"{USER}@msisdn", "bill_status": "open"}
    return {
        "account_info": {**usual, "blocked": False, "firstname": "Zoe", **account},
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
    }


class OfKamailio(StateStandardTests):
    """The connector as it is set up here, and against the real Kamailio (tests/systems)."""

    connector_class = VoipKamailio
    pb = snapshot()
    changed_pb = snapshot(firstname="Zora")
    gone_pb = (snapshot(blocked=True), {"sim_info": pb["sim_info"]})
    secrets: ClassVar = {"password_key": KEY, "password": "not-for-a-file"}


def settings_of(url: str, rpc: str) -> dict[str, Any]:
    return {
        "database_url": url,
        "rpc_url": f"{rpc}/RPC",
        "domain": DOMAIN,
        "columns": {"display": "name"},
    }


class TestVoipKamailio(OfKamailio, HttpStandardTests):
    """What breaks here is the JSON-RPC; the database is a file."""

    rules = ANSWERS
    hidden_failures = (
        Reply(200, {"jsonrpc": "2.0", "error": {"code": 500, "message": "AOR not found"}}),
        Reply(200, {}),
        Reply(204),
    )

    @pytest.fixture
    def double(self) -> Registrar:
        return Registrar()

    @pytest.fixture(autouse=True)
    def database(self, tmp_path: Path) -> Path:
        self._file = tmp_path / "kamailio.db"
        make_database(self._file)
        return self._file

    def http_settings(self, url: str) -> dict[str, Any]:
        return settings_of(f"sqlite:///{self._file}", url)

    def act(self, connector: Any, call: Call) -> object:
        """Bring the first subscriber there, with what follows the write."""
        key, state = self.first(connector, self.pb)
        connector.create(key, state, call)
        return connector.after_write(key, state, None, call)

    def test_the_row(self, connector: Any, database: Path) -> None:
        self.act(connector, make_call())
        with sqlite3.connect(database) as file:
            [row] = file.execute("SELECT * FROM subscriber").fetchall()
        made = hmac.new(KEY.encode(), SUBSCRIBER.encode(), hashlib.sha256).hexdigest()[:32]
        ha1, ha1b = (
            hashlib.md5(f"{user}:{DOMAIN}:{made}".encode()).hexdigest()
            for user in (USER, SUBSCRIBER)
        )
        assert row[1:] == (USER, DOMAIN, "", ha1, ha1b, "Zoe", None)

    @pytest.mark.parametrize("pb", [*OfKamailio.gone_pb, snapshot(status="customer_suspended")])
    def test_who_is_not_served_is_forgotten(
        self, connector: Any, double: Registrar, pb: dict[str, Any]
    ) -> None:
        kit, owner = UnderTheKit(self, connector), enriched(self.pb).owner
        double.location = {USER, "another"}
        assert kit.deliver(self.enriched(self.pb)) is Outcome.DELIVERED
        double.location.add(USER)
        later = self.enriched(
            pb, owner=owner, variables={"i_event": 2}, t="2026-11-21T02:11:00.000000Z"
        )
        assert kit.deliver(later) is Outcome.DELIVERED
        assert double.location == {"another"}
        assert connector.read(SUBSCRIBER, make_call()) is None

    @pytest.mark.parametrize("reply", [Reply(500, "out of memory"), fault("Method Not Found")])
    def test_a_removal_that_fails_once_is_repeated_until_it_is_done(
        self, double: Registrar, reply: Reply
    ) -> None:
        with ScriptedHttp(double) as rpc:
            connector = self.make(self.http_settings(rpc.url))
            kit, event = UnderTheKit(self, connector), self.enriched(self.pb)
            assert kit.deliver(event) is Outcome.DELIVERED
            double.location, double.removed = {USER}, []
            later = {"owner": event.owner, "t": "2026-11-21T02:11:00.000000Z"}
            gone = self.enriched({}, **later)
            rpc.script(reply)
            assert kit.attempt(gone).outcome is Outcome.RETRYING
            assert double.location == {USER}
            assert connector.read(SUBSCRIBER, make_call()) is None  # the row went before
            assert kit.deliver(gone) in (Outcome.DELIVERED, Outcome.UNCHANGED)
            assert double.location == set() and double.removed == [USER]
            connector.close()

    def test_a_phone_stays_registered_while_its_password_is_the_same(
        self, connector: Any, double: Registrar
    ) -> None:
        key, was = self.first(connector, self.pb)
        _, state = self.first(connector, self.changed_pb)
        connector.after_write(key, state, was, make_call())
        assert double.removed == []
        connector.after_write(key, state, None, make_call())
        connector.after_write(key, state, {**was, "ha1": "another"}, make_call())
        assert double.removed == [USER, USER]

    def test_all_rows_of_the_domain_are_listed(self, connector: Any, database: Path) -> None:
        """Page by page; others may have written some, and other domains share the table."""
        ours = {f"{name}@{DOMAIN}" for name in ("1", "2", "3", "a@b", "z")}
        with sqlite3.connect(database) as file:
            for key in (*ours, "1@other.example.net", "2@zoo.example.net"):
                name, _, domain = key.rpartition("@")
                file.execute(
                    "INSERT INTO subscriber (username, domain) VALUES (?, ?)", (name, domain)
                )
        found: list[str] = []
        for _ in range(4):  # two, two, the last one, nothing
            found += connector.keys(found[-1] if found else "", 2, make_call())
        assert len(found) == len(ours) and set(found) == ours
        connector.delete(f"a@b@{DOMAIN}", None, make_call())
        assert connector.read(f"a@b@{DOMAIN}", make_call()) is None

    def test_contacts_that_are_kept_by_domain(self, system: ChaosProxy, double: Registrar) -> None:
        connector = self.make({**self.settings(system), "use_domain": True})
        connector.after_write(SUBSCRIBER, None, None, make_call())
        assert double.removed == [SUBSCRIBER]
        connector.close()

    def test_an_error_is_read_by_its_message(self, towards: Any, scripted: ScriptedHttp) -> None:
        for reply, error in (
            (ABSENT, None),
            (fault("Method Not Found"), Transient),
            (fault("Domain not found"), Unclear),
            (Reply(500, "AOR not found"), Unclear),  # not JSON-RPC: of something between
        ):
            scripted.always(reply)
            got = self.attempt(lambda: towards.after_write(SUBSCRIBER, None, None, make_call()))
            assert type(got) is (error or type(None))

    @pytest.mark.parametrize("ident", ["alice", "office@voip", ""])
    def test_an_account_without_a_number(self, connector: Any, ident: str) -> None:
        with pytest.raises(Terminal, match=r"account_info\.id"):
            connector.desired(enriched(snapshot(id=ident)))

    def test_a_password_that_is_looked_up(self, system: ChaosProxy) -> None:
        """Who is barred is so without it, too: by having no row."""
        with ScriptedHttp(Reply(200, {"password": "secret-of-zoe"})) as source:
            look_up = {"source": "http", "url": f"{source.url}/{{i_account}}", "allow_http": True}
            wanted = {**self.settings(system), "status_column": "status", "credentials": look_up}
            context = make_context({"look_up": "token"})
            connector = VoipKamailio(Settings.model_validate(wanted), context)
            (state,) = connector.desired(enriched(self.pb)).values()
            expected = hashlib.md5(f"{USER}:{DOMAIN}:secret-of-zoe".encode()).hexdigest()
            assert state["ha1"].reveal() == expected
            barred = enriched(snapshot(blocked=True))
            assert [*connector.desired(barred)] == [SUBSCRIBER]
            source.always(Reply(404))
            connector = VoipKamailio(Settings.model_validate(wanted), context)  # keeps nothing yet
            assert connector.desired(barred) == {}
            with pytest.raises(Transient, match="there is no credential"):
                connector.desired(enriched(self.pb))

    def test_a_key_that_is_too_short(self, system: ChaosProxy) -> None:
        settings = Settings.model_validate(self.settings(system))
        connector = VoipKamailio(settings, make_context({"password_key": "short"}))
        with pytest.raises(Transient, match="password_key"):
            connector.desired(enriched(self.pb))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"columns": {"ha1": "name"}},
            {"columns": {"password": "name"}},
            {"columns": {"display": "no.such"}},
            {"rpc_url": "ftp://sip.example.net"},
            {"database_url": "postgresql://nsps:secret@db/kamailio"},
            {"domain": "a@b"},
            {"status_column": "ha1b"},
            {"status_column": "display"},
            {"status_column": "Status"},
        ],
    )
    def test_settings_that_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Settings.model_validate({**self.http_settings("http://sip.example.net"), **wrong})
