"""The connector freeradius against a real FreeRADIUS with PostgreSQL: who logs in, with what, and
what becomes of a live session."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from nsps.delivery.verdict import Verdict
from nsps.domain.event import RECONCILE
from nsps.domain.outcome import NoAnswer, Outcome
from nsps.runtime.secrets import SecretValue
from nsps.transport.deadline import Deadline
from nsps.transport.radius import Nas, RadiusClient
from nsps_local.daemons.freeradius import RADIUS_SCHEMA, FreeRadius, freeradius, radclient
from nsps_local.daemons.postgresql import new_database, postgresql
from nsps_testing.standard import Reply, ScriptedHttp, UnderTheKit, enriched, make_call
from pyrad.packet import (
    CoAACK,
    CoANAK,
    CoARequest,
    DisconnectACK,
    DisconnectNAK,
    DisconnectRequest,
)

from functions.connectors.freeradius.attributes import Attributes
from tests.connectors import test_freeradius as of_connector
from tests.connectors.test_freeradius import PASSWORD, USER, counter, snapshot
from tests.unit.test_radius import Behaviour, NasDouble, answering

GOLD = {"Mikrotik-Rate-Limit": "50M/10M", "Session-Timeout": "3600"}
SILVER = {"Mikrotik-Rate-Limit": "20M/5M", "Session-Timeout": "3600"}
PROTOCOLS = ("User-Password", "MS-CHAP-Password", "CHAP-Password")
"""What radclient shows of a password: in clear (PAP), or by MS-CHAP or CHAP."""
SESSION = {"User-Name": USER, "Acct-Session-Id": "4F2", "NAS-IP-Address": "127.0.0.1"}


@dataclass
class World:
    """A PostgreSQL with FreeRADIUS's database ``radius``."""

    host: str
    port: int

    def make_database(self) -> None:
        new_database((self.host, self.port), "radius", RADIUS_SCHEMA)

    @contextmanager
    def session(self, database: str = "radius") -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(
            host=self.host, port=self.port, user="postgres", dbname=database, autocommit=True
        ) as session:
            yield session

    def daemon(self, folder: Path) -> AbstractContextManager[FreeRadius]:
        return freeradius(folder, self.port, "radius")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if not RADIUS_SCHEMA.exists():
        pytest.skip("FreeRADIUS is not installed: apt-get install freeradius-postgresql")
    with postgresql() as (host, port):
        made = World(host, port)
        made.make_database()
        yield made


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreeRadius]:
    with world.daemon(tmp_path_factory.mktemp("freeradius")) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(world: World) -> None:
    with world.session() as session:
        session.execute("TRUNCATE radcheck, radreply, radusergroup, radacct")


# --- the two sides: PortaBilling's events, and the subscriber -------------------------------------


@dataclass
class Provisioned:
    """One handler, with events of one account."""

    world: World
    settings: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        user = self.settings.pop("user", "postgres")
        url = f"postgresql://{user}@{self.world.host}:{self.world.port}/radius"
        settings = of_connector.settings_of(self.world.host, self.world.port, **self.settings)
        self._tests = of_connector.TestFreeradius()
        self._connector = self._tests.make({**settings, "database_url": url})
        self._kit = UnderTheKit(self._tests, self._connector)

    def attempt(self, pb: dict[str, Any], event_type: str = "Account/Changed") -> Verdict:
        """A new event, with what PortaBilling says now."""
        self.number += 1
        self._event = enriched(
            pb,
            event_type=event_type,
            variables={"i_event": self.number, "i_account": 1000889},
            t=f"2026-11-21T02:10:{self.number:02}.000000Z",
        )
        return self.again()

    def again(self) -> Verdict:
        """The same event, as Pub/Sub brings it again."""
        return self._kit.attempt(self._event)

    def deliver(self, pb: dict[str, Any], event_type: str = "Account/Changed") -> Outcome:
        verdict = self.attempt(pb, event_type)
        assert verdict.ack, verdict.reason
        return verdict.outcome

    def check(self) -> None:
        self._connector.check(make_call())

    def close(self) -> None:
        self._connector.close()


@pytest.fixture
def provisioned(world: World) -> Iterator[Any]:
    made: list[Provisioned] = []

    def make(**settings: Any) -> Provisioned:
        made.append(Provisioned(world, {"sessions": "leave", **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def login(
    daemon: FreeRadius, user: str = USER, password: str = PASSWORD, protocol: str = "User-Password"
) -> dict[str, str] | None:
    """The attributes of the Access-Accept; None for an Access-Reject."""
    given = {"User-Name": user, protocol: password}
    answer = radclient(daemon.auth, "auth", daemon.secret, given)
    assert answer.startswith(("Access-Accept", "Access-Reject")), answer or "no answer"
    if answer.startswith("Access-Reject"):
        return None
    found = re.findall(r"^\t([\w-]+) = (.*)$", answer, re.MULTILINE)
    return {name: value.strip('"') for name, value in found if not name.startswith("MS-")}


def account(daemon: FreeRadius, status: str, **more: str) -> None:
    """A NAS's accounting of the session."""
    given = {**SESSION, "Acct-Status-Type": status, **more}
    answer = radclient(daemon.acct, "acct", daemon.secret, given)
    assert answer.startswith("Accounting-Response"), answer or "no answer"


# --- logins ---------------------------------------------------------------------------------------


def test_a_login_gets_what_the_product_gives(daemon: FreeRadius, provisioned: Any) -> None:
    handler = provisioned()
    assert login(daemon) is None  # not yet known
    steps: list[tuple[dict[str, Any], dict[str, str] | None]] = [
        (snapshot(), GOLD),
        (snapshot("Silver"), {**SILVER, "Cisco-AVPair": "b=2"}),  # the last of two
        (snapshot("Silver", blocked=True), None),
        (snapshot(), GOLD),
        (snapshot(bill_status="suspended"), None),
        (snapshot(), GOLD),
        (snapshot(bill_status="terminated"), None),
    ]
    for pb, expected in steps:
        assert handler.deliver(pb) is Outcome.DELIVERED
        assert login(daemon) == expected
        assert login(daemon, password="wrong") is None
        if expected is None:
            assert {login(daemon, protocol=each) for each in PROTOCOLS} == {None}


@pytest.mark.parametrize(
    ("form", "works"),
    [
        ("nt", {"User-Password", "MS-CHAP-Password"}),
        ("ssha", {"User-Password"}),
        ("clear", {"User-Password", "MS-CHAP-Password", "CHAP-Password"}),
        ("none", set[str]()),
    ],
)
def test_what_each_form_of_a_password_allows(
    daemon: FreeRadius, provisioned: Any, form: str, works: set[str]
) -> None:
    provisioned(password=form).deliver(snapshot())
    assert {each for each in PROTOCOLS if login(daemon, protocol=each) is not None} == works
    assert all(login(daemon, password="wrong", protocol=each) is None for each in PROTOCOLS)


@pytest.mark.parametrize("form", ["nt", "ssha"])
def test_a_password_of_any_letters_that_is_looked_up(
    daemon: FreeRadius, provisioned: Any, form: str
) -> None:
    password = "pässwört '%{User-Name}"
    with ScriptedHttp(Reply(200, {"password": password})) as source:
        place = {"source": "http", "url": f"{source.url}/{{i_account}}", "allow_http": True}
        place["authentication"] = "none"
        handler = provisioned(password=form, credentials=place)
        assert handler.deliver(snapshot()) is Outcome.DELIVERED
    assert login(daemon, password=password) == GOLD
    assert login(daemon, password=PASSWORD) is None


def test_a_wimax_subscriber_is_known_by_its_nai(daemon: FreeRadius, provisioned: Any) -> None:
    qos = {
        "WiMAX-QoS-Id": "1",
        "WiMAX-Global-Service-Class-Name": "gold01",
        "WiMAX-Maximum-Sustained-Traffic-Rate": "4000000",
    }
    wimax = {"profile": "wimax", "realm": "wimax.example", "password": "clear"}
    handler = provisioned(**wimax, reply={}, plans={"Gold": qos}, sessions="disconnect")
    handler.deliver(snapshot(id="001122334455"))
    nai = "001122334455@wimax.example"
    password = of_connector.password_of(nai)
    assert login(daemon, nai, password) == qos
    assert login(daemon, "001122334455", password) is None


def test_as_a_pcrf_speed_and_quota_follow_product_and_counter(
    daemon: FreeRadius, provisioned: Any
) -> None:
    quota = {**of_connector.QUOTA, **of_connector.GIGAWORDS}
    handler = provisioned(profile="policy", quota=quota, reply={})

    def policy(remaining: Any, product: str = "Gold") -> dict[str, str] | None:
        handler.deliver({**snapshot(product), "full_vd_counter_info": [counter(remaining)]})
        return login(daemon, "420777000003", "whatever the gateway sends")

    left = {"Mikrotik-Total-Limit": "1024", "Mikrotik-Total-Limit-Gigawords": "2"}
    assert policy(2**23 + 1) == {"Mikrotik-Rate-Limit": "50M/10M", **left}
    assert policy(0) == {"Mikrotik-Rate-Limit": "256k/256k"}
    assert policy("N/A") == {"Mikrotik-Rate-Limit": "50M/10M"}
    other = policy("N/A", "Silver")
    assert other is not None and other["Mikrotik-Rate-Limit"] == "20M/5M"


def test_the_group_gives_what_the_operator_wrote(
    world: World, daemon: FreeRadius, provisioned: Any
) -> None:
    with world.session() as session:
        session.execute(
            "INSERT INTO radgroupreply (groupname, attribute, op, value) "
            "VALUES ('Gold', 'Filter-Id', ':=', 'fast')"
        )
    provisioned(group="product_info.name").deliver(snapshot())
    assert login(daemon) == {**GOLD, "Filter-Id": "fast"}


# --- a live session -------------------------------------------------------------------------------


@pytest.fixture
def nas() -> Iterator[Any]:
    started: list[NasDouble] = []

    def start(*behaviours: Behaviour) -> NasDouble:
        started.append(NasDouble(*behaviours))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_live_session_is_told_of_a_new_product_and_ended_by_a_block(
    daemon: FreeRadius, provisioned: Any, nas: Any
) -> None:
    access = nas(
        answering(CoANAK, 506),  # no resources: to be repeated
        answering(CoAACK),
        answering(DisconnectNAK, 504),
        answering(DisconnectACK),
    )
    handler = provisioned(sessions="coa", coa_port=access.port)
    assert handler.deliver(snapshot()) is Outcome.DELIVERED
    account(daemon, "Start", **{"Framed-IP-Address": "10.0.0.7"})
    assert access.seen == []  # no session was live

    assert handler.attempt(snapshot("Silver")).outcome is Outcome.RETRYING
    granted = login(daemon)
    assert (
        granted is not None and granted["Mikrotik-Rate-Limit"] == "20M/5M"
    )  # the row is right already
    assert handler.again().ack
    assert handler.deliver(snapshot("Silver")) is Outcome.UNCHANGED  # nothing more is owed
    assert [seen.packet.code for seen in access.seen] == [CoARequest] * 2
    packet = access.seen[-1].packet
    assert {name: packet[name] for name in (*SILVER, "User-Name", "Acct-Session-Id")} == {
        "Mikrotik-Rate-Limit": ["20M/5M"],
        "Session-Timeout": [3600],
        "User-Name": [USER],
        "Acct-Session-Id": ["4F2"],
    }
    assert packet["Framed-IP-Address"] == ["10.0.0.7"]

    assert handler.attempt(snapshot("Silver", blocked=True)).outcome is Outcome.RETRYING
    assert login(daemon) is None
    assert handler.again().ack
    assert [seen.packet.code for seen in access.seen[2:]] == [DisconnectRequest] * 2

    account(daemon, "Stop")
    assert handler.deliver(snapshot()) is Outcome.DELIVERED
    assert len(access.seen) == 4  # the session had ended


def test_a_session_that_the_nas_does_not_know_is_no_error(
    daemon: FreeRadius, provisioned: Any, nas: Any
) -> None:
    access = nas(answering(DisconnectNAK, 503))
    handler = provisioned(sessions="disconnect", coa_port=access.port)
    handler.deliver(snapshot())
    account(daemon, "Start")
    assert handler.deliver({}) is Outcome.DELIVERED
    assert len(access.seen) == 1 and login(daemon) is None


def test_freeradius_as_a_nas_takes_what_is_signed(daemon: FreeRadius) -> None:
    """FreeRADIUS itself takes CoA and Disconnect: a second reading of the RFC."""
    radius = RadiusClient(Attributes().dictionary)
    right = Nas("127.0.0.1", daemon.coa, SecretValue(daemon.secret))
    given = {"User-Name": USER, "Acct-Session-Id": "4F2", "Mikrotik-Rate-Limit": "20M/5M"}
    assert radius.change(right, given, Deadline(5)) is True
    assert radius.disconnect(right, {"User-Name": USER}, Deadline(5)) is True
    assert radius.change(right, {"User-Name": "offline"}, Deadline(5)) is False
    assert radius.disconnect(right, {"User-Name": "offline"}, Deadline(5)) is False
    with pytest.raises(NoAnswer):
        radius.change(replace(right, secret=SecretValue("another")), given, Deadline(0.3))


# --- the database --------------------------------------------------------------------------------


def test_the_privileges_that_the_readme_names_are_enough(world: World, provisioned: Any) -> None:
    written = "radcheck, radreply, radusergroup"
    with world.session() as session:
        session.execute("DROP ROLE IF EXISTS provisioning")
        session.execute("CREATE ROLE provisioning LOGIN")
        session.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {written} TO provisioning")
        for table in written.split(", "):
            session.execute(f"GRANT USAGE ON SEQUENCE {table}_id_seq TO provisioning")
        session.execute("GRANT SELECT ON radacct TO provisioning")
    handler = provisioned(group="product_info.name", sessions="disconnect", user="provisioning")
    for pb in (snapshot(), snapshot("Silver"), snapshot(blocked=True), {}):
        assert handler.deliver(pb) is Outcome.DELIVERED
    handler.check()


def test_a_database_that_was_lost_while_events_came_is_filled_by_reconcile(
    world: World, tmp_path: Path, provisioned: Any
) -> None:
    handler = provisioned()
    with world.daemon(tmp_path) as daemon:
        handler.deliver(snapshot())
        assert login(daemon) == GOLD
        with world.session("postgres") as session:
            session.execute("DROP DATABASE radius WITH (FORCE)")
        assert handler.attempt(snapshot("Silver")).outcome is Outcome.RETRYING
        world.make_database()
        assert login(daemon) is None
    with world.daemon(tmp_path) as daemon:
        assert handler.again().ack  # what was to be tried again
        expected = {**SILVER, "Cisco-AVPair": "b=2"}
        assert login(daemon) == expected
        world.make_database()
        assert handler.deliver(snapshot("Silver")) is Outcome.UNCHANGED  # as NSPS knows it
        assert handler.deliver(snapshot("Silver"), RECONCILE) is Outcome.DELIVERED
        assert login(daemon) == expected


# --- the dictionary -------------------------------------------------------------------------------


def test_the_shipped_dictionary_says_what_freeradius_says() -> None:
    folder = Path("/usr/share/freeradius")
    if not folder.exists():
        pytest.skip("FreeRADIUS is not installed: apt-get install freeradius")
    texts = [file.read_text(errors="replace") for file in folder.glob("dictionary*")]
    theirs = {
        (name, code.lower(), kind.lower(), "has_tag" in flags)
        for text in texts
        for name, code, kind, flags in re.findall(
            r"^ATTRIBUTE\s+(\S+)\s+(\S+)\s+(\w+)([^\n#]*)", text, re.MULTILINE
        )
    }
    named = {
        pair
        for text in texts
        for pair in re.findall(r"^VALUE\s+(\S+)\s+(\S+)\s", text, re.MULTILINE)
    }
    for each in Attributes().dictionary.attributes.values():
        code = f"{each.parent.code}.{each.code}" if each.is_sub_attribute else str(each.code)
        assert (each.name, code, each.type, each.has_tag) in theirs
        assert {(each.name, value) for value in each.values.forward} <= named
