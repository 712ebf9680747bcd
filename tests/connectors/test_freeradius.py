"""The connector freeradius: the standard tests on PostgreSQL, and its own rules.

Logins against a real FreeRADIUS are in tests/systems/test_freeradius.py.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import psycopg
import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.domain.snapshot import Block
from nsps.runtime.mistakes import sentences
from nsps.runtime.secrets import SecretValue
from nsps_local.daemons.postgresql import postgresql
from nsps_testing.standard import (
    ChaosProxy,
    Reply,
    ScriptedHttp,
    StateStandardTests,
    enriched,
    make_call,
    make_context,
)
from psycopg.rows import dict_row
from pydantic import ValidationError
from pyrad.packet import CoAACK, CoAPacket, CoARequest, DisconnectACK, DisconnectRequest

from functions.connectors.freeradius.connector import REJECT, Freeradius
from functions.connectors.freeradius.settings import Settings
from tests.unit.test_radius import SECRET, NasDouble, answering, silent

KEY = "a-sample-key-of-sufficient-length-51c7"
USER = "alice.novak"
NAS = "127.0.0.1"
TABLES = """
CREATE TABLE radcheck (id serial PRIMARY KEY, UserName text NOT NULL DEFAULT '',
    Attribute text NOT NULL DEFAULT '', op varchar(2) NOT NULL DEFAULT '==',
    Value text NOT NULL DEFAULT '');
CREATE TABLE radreply (LIKE radcheck INCLUDING ALL);
CREATE TABLE radusergroup (id serial PRIMARY KEY, UserName text NOT NULL DEFAULT '',
    GroupName text NOT NULL DEFAULT '', priority integer NOT NULL DEFAULT 0);
CREATE TABLE radacct (RadAcctId bigserial PRIMARY KEY, AcctSessionId text NOT NULL,
    UserName text, NASIPAddress inet NOT NULL, FramedIPAddress inet,
    AcctStopTime timestamp with time zone);
"""


def password_of(user: str) -> str:
    """As whatever configures the subscribers' devices makes it."""
    return hmac.new(KEY.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


PASSWORD = password_of(USER)


def settings_of(host: str, port: int, **more: Any) -> dict[str, Any]:
    return {
        "database_url": f"postgresql://postgres@{host}:{port}/postgres",
        "reply": {"Session-Timeout": "policy.session_timeout"},
        "plans": {
            "Gold": {"Mikrotik-Rate-Limit": "50M/10M"},
            "Silver": {"Mikrotik-Rate-Limit": "20M/5M", "Cisco-AVPair": ["b=2", "a=1"]},
        },
        **more,
    }


def snapshot(product: str = "Gold", **account: Any) -> dict[str, Any]:
    """An account with a product and an access policy, as in pb_data of the NSPS contract."""
    timeout = {"group_name": "radius", "name": "session_timeout", "value": "3600"}
    return {
        "account_info": {"i_account": 1000889, "id": USER, "bill_status": "open", **account},
        "product_info": {"i_product": 7, "name": product},
        "access_policy_info": {"i_access_policy": 3, "attributes": [timeout]},
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003", "msisdn": "420777000003"},
    }


def make_tables(server: tuple[str, int]) -> None:
    host, port = server
    with psycopg.connect(host=host, port=port, user="postgres") as session:
        session.execute(TABLES)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    with postgresql() as address:
        make_tables(address)
        yield address


@pytest.fixture
def sql(server: tuple[str, int]) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    host, port = server
    with psycopg.connect(
        host=host, port=port, user="postgres", autocommit=True, row_factory=dict_row
    ) as session:
        session.execute("TRUNCATE radcheck, radreply, radusergroup, radacct")
        yield session


Sql = psycopg.Connection[dict[str, Any]]


def replies(sql: Sql, user: str = USER) -> list[tuple[str, str, str]]:
    query = "SELECT attribute, op, value FROM radreply WHERE username = %s ORDER BY 1, 3"
    return [(each["attribute"], each["op"], each["value"]) for each in sql.execute(query, [user])]


class TestFreeradius(StateStandardTests):
    """What breaks here is the database."""

    connector_class = Freeradius
    pb = snapshot()
    changed_pb = snapshot("Silver")
    gone_pb = (snapshot(bill_status="terminated"), snapshot(status="closed"))
    requires = (Block.PRODUCT_INFO, Block.ACCESS_POLICY_INFO, Block.SIM_INFO)
    secrets: ClassVar = {
        "password_key": KEY,
        "password": "not-for-a-file",
        "coa_secret": SECRET,
    }
    pings_first = True
    deadline = 2.0  # libpq knows no shorter limit for a new connection

    @pytest.fixture
    def system(self, server: tuple[str, int], sql: Sql) -> Iterator[ChaosProxy]:
        with ChaosProxy(server) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return settings_of(system.host, system.port, group="product_info.name", sessions="leave")

    # --- rows -------------------------------------------------------------------------------------

    def test_the_rows(self, connector: Any, sql: Sql) -> None:
        self.act(connector, make_call())
        [check] = sql.execute("SELECT * FROM radcheck").fetchall()
        assert (check["username"], check["attribute"], check["op"]) == (USER, "NT-Password", ":=")
        assert len(check["value"]) == 2 + 32 and PASSWORD not in check["value"]
        expected = [("Mikrotik-Rate-Limit", ":=", "50M/10M"), ("Session-Timeout", ":=", "3600")]
        assert replies(sql) == expected
        [group] = sql.execute("SELECT * FROM radusergroup").fetchall()
        assert (group["username"], group["groupname"]) == (USER, "Gold")

    @pytest.mark.parametrize(
        "damage",
        [
            "INSERT INTO radreply (username, attribute, op, value) "
            "SELECT username, attribute, op, value FROM radreply",
            "INSERT INTO radcheck (username, attribute, op, value) "
            f"VALUES ('{USER}', 'Cleartext-Password', ':=', 'by-hand')",
            "DELETE FROM radreply WHERE attribute = 'Session-Timeout'",
            "DELETE FROM radcheck",
            "UPDATE radreply SET op = '=='",
            "UPDATE radusergroup SET groupname = 'Platinum'",
            f"INSERT INTO radusergroup (username, groupname) VALUES ('{USER}', 'Free')",
        ],
    )
    def test_what_was_changed_by_hand_is_put_right(
        self, connector: Any, sql: Sql, damage: str
    ) -> None:
        other = "INSERT INTO radreply (username, attribute, value) VALUES ('bob', 'Class', '0x01')"
        sql.execute(other)
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        sql.execute(damage)
        assert connector.read(key, make_call()) != state
        self.bring(connector, key, state)
        assert connector.read(key, make_call()) == state
        assert len(replies(sql, "bob")) == (2 if damage.startswith("INSERT INTO radreply") else 1)

    @pytest.mark.parametrize(
        "pb",
        [snapshot(blocked=True), snapshot(bill_status="suspended"), snapshot(status="expired")],
    )
    def test_who_is_barred_is_rejected_whatever_else_is_wrong(
        self, connector: Any, pb: dict[str, Any]
    ) -> None:
        pb["product_info"] = {"name": "Unknown"}
        pb["access_policy_info"] = None
        desired = connector.desired(self.enriched(pb))
        assert desired == {USER: {"check": [REJECT], "reply": [], "group": []}}

    @pytest.mark.parametrize("ident", ["", "o'hara", "a\\b", "Ä", " alice", "a" * 254, None])
    def test_a_name_that_freeradius_cannot_look_up(self, connector: Any, ident: str | None) -> None:
        with pytest.raises(Terminal, match="user name"):
            connector.desired(self.enriched(snapshot(id=ident)))
        assert connector.desired(self.enriched(snapshot(id=ident, blocked=True))) == {}

    @pytest.mark.parametrize(
        ("product", "timeout", "named"),
        [
            ("Unknown", "60", "plans"),
            ("Gold", "an hour", "Session-Timeout"),
            ("Gold", "-1", "Session-Timeout"),
            ("Gold", "4294967296", "Session-Timeout"),
            ("Gold", "6_0", "Session-Timeout"),
        ],
    )
    def test_what_freeradius_would_not_take_is_rejected(
        self, connector: Any, product: str, timeout: str, named: str
    ) -> None:
        pb = snapshot(product)
        pb["access_policy_info"]["attributes"][0]["value"] = timeout
        with pytest.raises(Terminal, match=named) as caught:
            connector.desired(self.enriched(pb))
        assert timeout not in str(caught.value)

    @pytest.mark.parametrize("form", ["nt", "none"])
    def test_all_user_names_are_listed(self, system: ChaosProxy, sql: Sql, form: str) -> None:
        """Page by page, each once, whoever wrote its rows."""
        names = {f"user-{number}" for number in range(5)} | {"Zoe", "a@b", "4711"}
        table = "radreply" if form == "none" else "radcheck"
        for name in (*names, *names):
            sql.execute(f"INSERT INTO {table} (username) VALUES (%s)", [name])
        connector = self.make({**self.settings(system), "password": form})
        found: list[str] = []
        while page := connector.keys(found[-1] if found else "", 3, make_call()):
            found += page
        assert len(found) == len(names) and set(found) == names
        connector.close()

    # --- live sessions ----------------------------------------------------------------------------

    @pytest.fixture
    def nas(self) -> Iterator[NasDouble]:
        double = NasDouble(self._acknowledge)
        yield double
        double.close()

    @staticmethod
    def _acknowledge(request: CoAPacket) -> Iterable[bytes]:
        return answering(CoAACK if request.code == CoARequest else DisconnectACK)(request)

    def with_sessions(self, system: ChaosProxy, secrets: dict[str, str], **more: Any) -> Freeradius:
        """The connector with these settings; its live sessions are not left alone."""
        settings = settings_of(system.host, system.port, **{"sessions": "coa", **more})
        model = Settings.model_validate(settings)
        return Freeradius(model, make_context({"password_key": KEY, **secrets}))

    def follow(
        self, connector: Freeradius, pb: dict[str, Any], was: Any = None, seconds: float = 5
    ) -> None:
        [(key, state)] = connector.desired(enriched(pb)).items()
        connector.after_write(key, state, was, make_call(seconds))

    def test_a_nas_that_is_away_does_not_keep_it_from_the_others(
        self, system: ChaosProxy, sql: Sql, nas: NasDouble
    ) -> None:
        away = "127.0.0.2"
        for ident, server in (("1", away), ("2", NAS), ("3", away), ("4", NAS)):
            online(sql, ident, server)
        online(sql, "5", NAS, stopped="now")
        online(sql, "6", NAS, user="bob")
        hung = NasDouble(silent)
        targets = {away: f"{NAS}:{hung.port}", NAS: f"{NAS}:{nas.port}"}
        connector = self.with_sessions(system, {"coa_secret": SECRET}, nas=targets)
        for pb, code in ((snapshot(), CoARequest), (snapshot(blocked=True), DisconnectRequest)):
            nas.seen.clear()
            with pytest.raises(NoAnswer):
                self.follow(connector, pb, seconds=2)
            sessions = {seen.packet["Acct-Session-Id"][0]: seen.packet.code for seen in nas.seen}
            assert sessions == {"2": code, "4": code}
        hung.close()
        connector.close()

    def test_a_session_that_needs_another_address_is_ended(
        self, system: ChaosProxy, sql: Sql, nas: NasDouble
    ) -> None:
        online(sql, "1", NAS, address="10.0.0.1")
        online(sql, "2", NAS, address="10.0.0.2")
        online(sql, "3", NAS)
        plans = {"Gold": {"Framed-IP-Address": "10.0.0.1", "Filter-Id": ["a", "b"]}}
        connector = self.with_sessions(
            system, {"coa_secret": SECRET}, plans=plans, coa_port=nas.port
        )
        self.follow(connector, snapshot())
        seen = {each.packet["Acct-Session-Id"][0]: each.packet for each in nas.seen}
        codes = {ident: packet.code for ident, packet in seen.items()}
        assert codes == {"1": CoARequest, "2": DisconnectRequest, "3": CoARequest}
        assert seen["1"][11] == [b"a", b"b"]
        assert "Framed-IP-Address" not in seen["3"]  # it would be taken for the session's
        connector.close()

    def test_a_nas_with_an_ipv6_address(self, system: ChaosProxy, sql: Sql, nas: NasDouble) -> None:
        online(sql, "1", "2001:db8::7", address="10.0.0.1")
        targets = {"2001:db8::7": f"{NAS}:{nas.port}"}
        connector = self.with_sessions(system, {"coa_secret": SECRET}, nas=targets)
        self.follow(connector, snapshot(blocked=True))
        [seen] = nas.seen
        assert seen.packet[95] == [ipaddress.IPv6Address("2001:db8::7").packed]
        assert 4 not in seen.packet
        connector.close()

    def test_a_password_alone_disturbs_no_session(
        self, system: ChaosProxy, sql: Sql, nas: NasDouble
    ) -> None:
        online(sql, "1", NAS)
        connector = self.with_sessions(system, {"coa_secret": SECRET}, coa_port=nas.port)
        [was] = connector.desired(enriched(snapshot())).values()
        self.follow(connector, snapshot(), {**was, "check": []})
        assert nas.seen == []
        self.follow(connector, snapshot("Silver"), was)
        assert len(nas.seen) == 1
        connector.close()

    @pytest.mark.parametrize(
        ("secrets", "text"),
        [
            ({"coa_secret": json.dumps({NAS: SECRET, "*": "another"})}, None),
            ({"coa_secret": json.dumps({"192.0.2.1": "another", "*": SECRET})}, None),
            ({"coa_secret": json.dumps({"192.0.2.1": "another"})}, f"none for the NAS {NAS}"),
            ({"coa_secret": "{"}, "JSON"),
        ],
    )
    def test_the_secret_that_a_nas_shares(
        self,
        system: ChaosProxy,
        sql: Sql,
        nas: NasDouble,
        secrets: dict[str, str],
        text: str | None,
    ) -> None:
        connector = self.with_sessions(system, secrets, coa_port=nas.port)
        self.follow(connector, snapshot())  # no session: no secret is needed
        online(sql, "1", NAS)
        error = self.attempt(lambda: self.follow(connector, snapshot()))
        assert (error is None and len(nas.seen) == 1) if text is None else text in str(error)
        connector.close()


def online(sql: Sql, ident: str, server: str, **more: str | None) -> None:
    """A session as radacct has it."""
    values = {"user": USER, "address": None, "stopped": None, **more}
    sql.execute(
        "INSERT INTO radacct (acctsessionid, nasipaddress, username, framedipaddress, acctstoptime)"
        " VALUES (%s, %s, %s, %s, %s)",
        [ident, server, values["user"], values["address"], values["stopped"]],
    )


# --- names, passwords, quota: what is wanted, without a database ----------------------------------


def desired(pb: dict[str, Any], **more: Any) -> dict[str, Any]:
    settings = Settings.model_validate(settings_of("db.example.net", 5432, **more))
    connector = Freeradius(settings, make_context({"password_key": KEY}))
    return dict(connector.desired(enriched(pb)))


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({}, [USER]),
        ({"usernames": ["imsi", "account_info.id"]}, ["001010000000003", USER]),
        ({"usernames": ["account_info.id", "account_info.phone1"]}, [USER]),  # one has no value
        ({"usernames": ["sim_info.msisdn", "msisdn"]}, ["420777000003"]),  # two have the same
        ({"realm": "isp.example"}, [f"{USER}@isp.example"]),
        ({"profile": "policy"}, ["420777000003"]),
        ({"profile": "wimax", "realm": "wimax.example"}, [f"{USER}@wimax.example"]),
    ],
)
def test_the_names_of_a_subscriber(more: dict[str, Any], names: list[str]) -> None:
    assert list(desired(snapshot(), **more)) == names


def test_a_nai_has_one_realm() -> None:
    wimax = {"profile": "wimax", "realm": "wimax.example"}
    assert list(desired(snapshot(id="00-11-22-33-44-55@other.example"), **wimax)) == [
        "00-11-22-33-44-55@other.example"
    ]
    with pytest.raises(Terminal, match="USER@REALM"):
        desired(snapshot(id="a@b@c"), **wimax)


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        ({"password": "clear"}, [("Cleartext-Password", SecretValue(PASSWORD))]),
        ({"password": "none"}, []),
        ({"password": "accept"}, [("Auth-Type", "Accept")]),
        ({"profile": "wimax", "realm": "a.b"}, []),
        ({"profile": "policy"}, [("Auth-Type", "Accept")]),
    ],
)
def test_how_a_password_stands_in_the_database(
    more: dict[str, Any], rows: list[tuple[str, Any]]
) -> None:
    [state] = desired(snapshot(), **more).values()
    assert [(each["attribute"], each["value"]) for each in state["check"]] == rows


def test_a_key_that_is_too_short() -> None:
    settings = Settings.model_validate(settings_of("db.example.net", 5432))
    connector = Freeradius(settings, make_context({"password_key": "short"}))
    with pytest.raises(Transient, match="password_key"):
        connector.desired(enriched(snapshot()))


def looked_up(source: ScriptedHttp, form: str, pb: dict[str, Any]) -> dict[str, Any]:
    """What is wanted, with passwords from an HTTP source."""
    place = {"source": "http", "url": f"{source.url}/{{i_account}}", "allow_http": True}
    more = {"credentials": place, "password": form, "usernames": ["account_info.id", "imsi"]}
    settings = Settings.model_validate(settings_of("db.example.net", 5432, **more))
    return dict(Freeradius(settings, make_context({"look_up": "token"})).desired(enriched(pb)))


def test_a_password_that_is_looked_up() -> None:
    """Once for all user names; and not at all for who is barred."""
    with ScriptedHttp(Reply(200, {"password": "password"})) as source:
        states = looked_up(source, "nt", snapshot())
        digest = SecretValue("0x8846f7eaee8fb117ad06bdd830b7586c")  # as every table has it
        row = {"attribute": "NT-Password", "op": ":=", "value": digest}
        assert [state["check"] for state in states.values()] == [[row], [row]]
        assert len(source.requests) == 1
        source.always(Reply(404))
        barred = looked_up(source, "nt", snapshot(blocked=True))
        assert [state["check"] for state in barred.values()] == [[REJECT], [REJECT]]
        assert len(source.requests) == 1
        with pytest.raises(Transient, match="there is no credential"):
            looked_up(source, "nt", snapshot())


@pytest.mark.parametrize("password", ["back\\slash", "`reboot`", "%{User-Name}", "'quoted'", ""])
def test_a_password_that_freeradius_would_expand(password: str) -> None:
    with ScriptedHttp(Reply(200, {"password": password})) as source:
        with pytest.raises(Terminal if password else Transient) as caught:
            looked_up(source, "clear", snapshot())
        assert not password or password not in str(caught.value)
        if password:
            assert looked_up(source, "ssha", snapshot())


@pytest.mark.parametrize(
    ("more", "secrets"),
    [
        ({}, ["coa_secret", "password_key"]),
        ({"sessions": "leave"}, ["password_key"]),
        ({"sessions": "leave", "password": "none"}, []),
        ({"sessions": "disconnect", "profile": "policy"}, ["coa_secret"]),
        ({"sessions": "leave", "credentials": {"source": "portabilling"}}, []),
        (
            {"credentials": {"source": "http", "url": "https://a.example/{i_account}"}},
            ["coa_secret", "look_up"],
        ),
    ],
)
def test_the_secrets_that_settings_need(more: dict[str, Any], secrets: list[str]) -> None:
    settings = Settings.model_validate(settings_of("db.example.net", 5432, **more))
    assert [name for name, _ in Freeradius.needs_secrets(settings)] == secrets
    blocks = {block for setting, block in Freeradius.reads(settings) if setting == "credentials"}
    assert blocks == ({Block.SIM_INFO} if "credentials" in more else set())


QUOTA = {
    "service": "Internet Access",
    "attribute": "Mikrotik-Total-Limit",
    "octets_per_unit": 1024,
    "exhausted": {"Mikrotik-Rate-Limit": "256k/256k"},
}
GIGAWORDS = {"gigawords": "Mikrotik-Total-Limit-Gigawords"}


def counter(remaining: Any, dg_name: str = "All", service: str = "Internet Access") -> Any:
    return {"service_name": service, "dg_name": dg_name, "remaining": remaining}


@pytest.mark.parametrize(
    ("counters", "more", "expected"),
    [
        ([counter(1000)], {}, {"Mikrotik-Total-Limit": "1024000"}),
        ([counter("1000.5")], {}, {"Mikrotik-Total-Limit": "1024512"}),
        ([counter(1), counter(2, "Night")], {}, {"Mikrotik-Total-Limit": "3072"}),
        ([counter(1), counter(2, "Night")], {"group": "Night"}, {"Mikrotik-Total-Limit": "2048"}),
        ([counter(2**23)], {}, {"Mikrotik-Total-Limit": str(2**32 - 1)}),
        (
            [counter(2**23 + 1)],
            GIGAWORDS,
            {"Mikrotik-Total-Limit": "1024", "Mikrotik-Total-Limit-Gigawords": "2"},
        ),
        ([counter(0)], {}, {"Mikrotik-Rate-Limit": "256k/256k"}),
        ([counter(-5)], GIGAWORDS, {"Mikrotik-Rate-Limit": "256k/256k"}),
        ([counter(0), counter(3, "Night")], {}, {"Mikrotik-Total-Limit": "3072"}),
        ([counter("N/A")], {}, {}),  # a bundle without a limit
        ([counter(0), counter("N/A", "Night")], {}, {}),
        ([counter(None)], {}, {}),
        ([counter(0, service="Voice")], {}, {}),
        ([], {}, {}),
        (None, {}, {}),
    ],
)
def test_speed_and_quota_follow_the_counter(
    counters: Any, more: dict[str, Any], expected: dict[str, str]
) -> None:
    pb = {**snapshot(), "full_vd_counter_info": counters}
    [state] = desired(pb, profile="policy", quota={**QUOTA, **more}).values()
    plan = {"Mikrotik-Rate-Limit": "50M/10M", "Session-Timeout": "3600"}
    assert {row["attribute"]: row["value"] for row in state["reply"]} == {**plan, **expected}


def test_what_the_account_has_beats_the_plan() -> None:
    pb = snapshot("Silver", phone1="1M/1M")
    reply = {"Mikrotik-Rate-Limit": "account_info.phone1", "Framed-Pool": "account_info.email"}
    [state] = desired(pb, reply=reply).values()
    assert state["reply"] == [
        {"attribute": "Cisco-AVPair", "op": "+=", "value": "a=1"},
        {"attribute": "Cisco-AVPair", "op": "+=", "value": "b=2"},
        {"attribute": "Mikrotik-Rate-Limit", "op": ":=", "value": "1M/1M"},
    ]


# --- what is refused with the configuration -------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"reply": {"Mikrotik-Rate-Limti": "imsi"}},
            "reply: Mikrotik-Rate-Limti: no such attribute",
        ),
        ({"reply": {"Session-Timeout": "no.such"}}, "reply: Session-Timeout: 'no.such'"),
        ({"reply": {"Session-Timeout:1": "imsi"}}, "takes no such tag"),
        ({"reply": {"WiMAX-QoS-Descriptor": "imsi"}}, "holds other attributes"),
        ({"reply": {"WiMAX-QoS-Id": "imsi"}}, "no CoA carries WiMAX-QoS-Id: write disconnect"),
        ({"plans": {"Gold": {"Session-Timeout": "long"}}}, "plans.Gold: Session-Timeout takes no"),
        ({"plans": {"Gold": {"Service-Type": "Framed"}}}, "or one of Framed-User, Login-User"),
        ({"plans": {"Gold": {"Framed-IP-Address": "10.0.0"}}}, "write an IPv4 address"),
        ({"plans": {"Gold": {"Class": "0x1"}}}, "hexadecimal digits"),
        ({"plans": {"Gold": {"Filter-Id": "`reboot`"}}}, "without a backslash"),
        ({"plans": {"Gold": {"Filter-Id": "%{exec:reboot}"}}}, "without a backslash"),
        ({"plans": {"Gold": {"Filter-Id": ["a", "b\\c"]}}}, "without a backslash"),
        ({"plans": {"Gold": {"Filter-Id": "ä" * 121}}}, "1 to 240 bytes"),
        ({"plans": {"Gold": {"Filter-Id": ""}}}, "1 to 240 bytes"),
        ({"plan": "product"}, "plan: product: 'product' names no value"),
        ({"usernames": ["account_info.assigned_addons"]}, "is a list"),
        ({"usernames": []}, "usernames"),
        ({"group": "product_info.name"}, "sessions: a CoA cannot carry"),
        ({"profile": "wimax"}, "realm: a WiMAX subscriber is USER@REALM"),
        ({"profile": "dialup"}, "profile"),
        ({"realm": "a@b"}, "realm"),
        ({"quota": {**QUOTA, "attribute": "No-Such"}}, "quota.attribute: No-Such: no such"),
        ({"quota": {**QUOTA, "exhausted": {}}}, "quota.exhausted"),
        ({"quota": {**QUOTA, "exhausted": {"Nope": "1"}}}, "quota.exhausted: Nope: no such"),
        ({"nas": {"10.0.0.1": "nas:99999"}}, "nas: 10.0.0.1: write HOST or HOST:PORT"),
        ({"dictionary": ["$INCLUDE /etc/passwd"]}, "other files are not included"),
        ({"dictionary": ["ATTRIBUTE Acme-Speed 1 string Acme"]}, "line 1: Unknown vendor Acme"),
        ({"database_url": "postgresql://nsps:secret@db/radius"}, "password"),
    ],
)
def test_settings_that_are_refused(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(settings_of("db.example.net", 5432, **more))
    assert text in sentences(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"plans": {"*": {"Tunnel-Type:1": "VLAN", "Tunnel-Private-Group-Id:1": "42"}}},
        {"plans": {"*": {"Acme-Speed": "fast"}}, "dictionary": [
            "VENDOR Acme 32473", "ATTRIBUTE Acme-Speed 1 string Acme"]},
        {"plans": {"*": {"WiMAX-QoS-Id": "7"}}, "sessions": "disconnect"},
        {"plans": {"*": {"Framed-IPv6-Prefix": "2001:db8::/64", "Class": "0x01ff"}}},
        {"nas": {"10.0.0.1": "nas.example.net", "10.0.0.2": "[::1]:1700"}},
    ],
)  # fmt: skip
def test_settings_that_are_taken(more: dict[str, Any]) -> None:
    Settings.model_validate(settings_of("db.example.net", 5432, **more))
