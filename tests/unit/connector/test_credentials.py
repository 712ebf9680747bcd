"""Where subscribers' secrets come from: each source, what it refuses, and what is seen of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.cloud import secretmanager_v1
from nsps.connector.base import Context, Enriched
from nsps.connector.credentials import (
    KEPT,
    KEPT_SECONDS,
    Credential,
    CredentialSettings,
    SubscriberCredentials,
)
from nsps.domain.event import EspfEvent, Owner, SnapshotTime
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block, PbData
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.login import ApiCredentials
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import Secrets, secret_manager_client
from nsps_local.secretmanager import SecretManagerServer
from nsps_testing.faults import Reply, ScriptedHttp, Seen
from nsps_testing.standard import make_context
from pydantic import ValidationError

IMSI, ICCID = "001010000000001", "8900000000000000001"
PASSWORD, RENEWED = "sip-canary-passw0rd", "another-passw0rd"
TOKEN = "token-of-the-look-up"


def event(t: datetime | None = None, **sim: Any) -> Enriched:
    now = (t or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    contract = {
        "account_info": {"i_account": 1001, "id": "34600000001@msisdn", "bill_status": "open"},
        "sim_info": {"imsi": IMSI, "iccid": ICCID, **sim},
    }
    pb = PbData.from_contract(contract, [Block.ACCOUNT_INFO, Block.SIM_INFO])
    snapshot = SnapshotTime(f"{now}/e-1")
    owner = Owner("account", "1001")
    return Enriched("e-1", EspfEvent("SIM/Updated", {}), owner, snapshot, pb, now, now)


@dataclass
class Source:
    """One of the sources with the credential in it, and a handler that has chosen it."""

    settings: CredentialSettings
    context: Context
    hold: Callable[[Any], None]
    """Let it hold this; None: no credential; a Reply of an HTTP source."""
    asked: Callable[[], int]


@pytest.fixture
def over_http() -> Iterator[ScriptedHttp]:
    with ScriptedHttp() as scripted:
        yield scripted


def http_source(system: ScriptedHttp) -> Source:
    def hold(what: Any) -> None:
        system.always(Reply(404, {"error": PASSWORD}) if what is None else Reply(200, what))

    url = f"{system.url}/v1/{{imsi}}"
    settings = CredentialSettings(source="http", url=url, allow_http=True)
    context = make_context({"look_up": TOKEN})
    return Source(settings, context, hold, lambda: len(system.requests))


def portabilling_source(system: ScriptedHttp) -> Source:
    held: dict[str, Any] = {}

    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("Session/login"):
            return Reply(200, {"access_token": "t"})
        assert (seen.path, seen.json()) == (
            "/rest/Account/get_account_info",
            {"params": {"i_account": 1001}},
        )
        if held["is"] is None:
            return Reply(200, {"account_info": None})
        account = {"i_account": 1001, "id": "34600000001@msisdn", "product_name": "Mobile S"}
        account |= {"bill_status": "open", "password": RENEWED}
        return Reply(
            200, {"account_info": {**account, "h323_password": held["is"].get("password")}}
        )

    system.otherwise = answer
    client = PortaBilling(
        system.url,
        lambda: ApiCredentials("nsps", "p"),
        absence={"account_info": frozenset({"empty"})},
    )
    context = replace(make_context(), portabilling=lambda: client)
    settings = CredentialSettings(source="portabilling")

    def asked() -> int:
        return sum("get_account" in each.path for each in system.requests)

    return Source(settings, context, lambda what: held.update({"is": what}), asked)


@pytest.fixture(scope="module")
def secret_manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SecretManagerServer(tmp_path_factory.mktemp("secrets")) as server:
        yield server.target


def secret_source(target: str, project: str) -> Source:
    client = secret_manager_client(target)
    secrets = Secrets(project, {}, client=client)
    parent, name = f"projects/{project}", f"projects/{project}/secrets/acme-sim-{IMSI}"
    asked: list[str] = []

    def hold(what: Any) -> None:
        if what is None:
            client.delete_secret(name=name)
            return
        if not list(client.list_secrets(parent=parent)):
            made = secretmanager_v1.Secret(replication={"automatic": {}})
            client.create_secret(parent=parent, secret_id=name.rpartition("/")[2], secret=made)
        client.add_secret_version(parent=name, payload={"data": json.dumps(what).encode()})

    def look_up(ref: str) -> Any:
        asked.append(ref)
        return secrets.look_up(ref)

    settings = CredentialSettings(source="secret_manager", name="acme-sim-{imsi}")
    return Source(settings, replace(make_context(), look_up=look_up), hold, lambda: len(asked))


@pytest.fixture(params=["http", "portabilling", "secret_manager"])
def source(
    request: pytest.FixtureRequest, over_http: ScriptedHttp, secret_manager: str, tmp_path: Path
) -> Source:
    made = {
        "http": lambda: http_source(over_http),
        "portabilling": lambda: portabilling_source(over_http),
        "secret_manager": lambda: secret_source(secret_manager, f"p-{abs(hash(tmp_path))}"),
    }[request.param]()
    made.hold({"password": PASSWORD})
    return made


def of(credentials: SubscriberCredentials, event: Enriched, **named: Any) -> str | None:
    return credentials.of(event, lambda found: found.secret("password").reveal(), **named)


def test_each_source_gives_the_credential_and_a_changed_one_to_the_next_event(
    source: Source,
) -> None:
    credentials = SubscriberCredentials(source.context, source.settings)
    earlier = event(datetime.now(UTC) - timedelta(seconds=1))
    assert [of(credentials, earlier), of(credentials, earlier)] == [PASSWORD] * 2
    assert source.asked() == 1, "the second was kept"
    source.hold({"password": RENEWED})
    assert of(credentials, event()) == RENEWED
    assert credentials.supplies(IMSI)


def test_no_credential_is_said_so_and_is_tried_again(source: Source) -> None:
    credentials = SubscriberCredentials(source.context, source.settings)
    source.hold(None)
    with pytest.raises(Transient, match="there is no credential of the subscriber: add it there"):
        of(credentials, event())
    assert of(credentials, event(), needed=False) is None, "who is barred needs none"


@pytest.mark.parametrize("wrong", [{"passwd": PASSWORD}, {"password": ""}, {"password": None}])
def test_a_credential_that_is_not_what_it_must_be(source: Source, wrong: Any) -> None:
    credentials = SubscriberCredentials(source.context, source.settings)
    source.hold(wrong)
    with pytest.raises(
        Transient, match=r'there is no text "(h323_)?password": correct it'
    ) as raised:
        of(credentials, event())
    assert PASSWORD not in str(raised.value)
    assert of(credentials, event(), needed=False) is None


def test_nothing_of_it_is_shown(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    """Not by objects, logs or errors; and a system may echo it."""
    caplog.set_level(logging.DEBUG)
    credentials = SubscriberCredentials(source.context, source.settings)
    redactor = Redactor(b"key of the tests")
    seen: list[Credential] = []
    echoed = f"duplicate entry for {PASSWORD}"
    with redactor.knowing({}):
        credentials.of(event(), seen.append)
        assert redactor.text_for_store(echoed) == "duplicate entry for ***"
        assert PASSWORD not in redactor.text_for_log(echoed)
    assert PASSWORD not in f"{seen} {credentials!r} {caplog.text}"


def test_a_history_says_what_is_no_secret_of_portabillings_account(
    over_http: ScriptedHttp,
) -> None:
    source = portabilling_source(over_http)
    source.hold({"password": PASSWORD})
    redactor = Redactor(b"key of the tests")
    with redactor.knowing({}):
        of(SubscriberCredentials(source.context, source.settings), event())
        plain = "34600000001@msisdn of account 1001 has Mobile S and is open"
        assert redactor.text_for_store(plain) == plain
        assert redactor.text_for_store(f"{PASSWORD}, {RENEWED}") == "***, ***"


def test_what_is_kept_is_bounded_in_time_and_number(over_http: ScriptedHttp) -> None:
    now = [0.0]
    source = http_source(over_http)
    source.hold({"password": PASSWORD})
    credentials = SubscriberCredentials(source.context, source.settings, clock=lambda: now[0])
    earlier = event(datetime.now(UTC) - timedelta(hours=1))
    of(credentials, earlier)
    now[0] = KEPT_SECONDS
    of(credentials, earlier)
    assert source.asked() == 2
    for number in range(KEPT + 5):
        of(credentials, event(imsi=f"00101{number:010}"))
    assert len(credentials._kept) == KEPT


def test_a_look_up_ends_in_time(over_http: ScriptedHttp) -> None:
    source = http_source(over_http)
    over_http.always(Reply(fault="hang"))
    began = datetime.now(UTC)
    with pytest.raises(Transient, match=r"no answer within 0\.3 s"):
        of(SubscriberCredentials(source.context, source.settings, seconds=0.3), event())
    assert datetime.now(UTC) - began < timedelta(seconds=3)


def test_what_the_look_up_says_of_a_mistake_is_not_shown(over_http: ScriptedHttp) -> None:
    source = http_source(over_http)
    over_http.always(Reply(500, {"error": f"cannot give {PASSWORD}"}))
    with pytest.raises(Transient, match=r"/v1/\d+ answered 500") as raised:
        of(SubscriberCredentials(source.context, source.settings), event())
    assert PASSWORD not in str(raised.value)
    assert over_http.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("sim", "place", "what"),
    [
        ({"iccid": None}, "iccid", "the subscriber has no iccid, by which the credential"),
        ({}, "account_id", "'34600000001@msisdn' cannot stand in a secret's name"),
    ],
)
def test_a_subscriber_who_cannot_be_looked_up(sim: Any, place: str, what: str) -> None:
    settings = CredentialSettings(source="secret_manager", name=f"sim-{{{place}}}")
    with pytest.raises(Terminal, match=what):
        of(SubscriberCredentials(make_context(), settings), event(**sim))


def test_members_may_stand_elsewhere(over_http: ScriptedHttp) -> None:
    source = http_source(over_http)
    source.hold({"data": [{"k": "A" * 32}], "algorithm": "Milenage"})
    settings = source.settings.model_copy(update={"members": {"ki": "data.0.k"}})
    credentials = SubscriberCredentials(source.context, settings)
    assert credentials.of(event(), lambda found: found.key("ki").reveal()) == "a" * 32
    assert credentials.of(event(), lambda found: found.text("algorithm")) == "milenage"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"source": "vault"}, "'portabilling', 'secret_manager' or 'http'"),
        ({"source": "secret_manager"}, "name goes with source secret_manager"),
        ({"source": "portabilling", "name": "sim-{imsi}"}, "name goes with source secret_manager"),
        ({"source": "secret_manager", "name": "sim-{puk}"}, r"\{puk\}: write \{imsi\}, "),
        ({"source": "secret_manager", "name": "{imsi}"}, "should match pattern"),
        ({"source": "http", "url": "https://h/one"}, "the same for all subscribers: write"),
        ({"source": "http", "url": "http://h/{imsi}"}, "write https://..., or allow_http"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: Any, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        CredentialSettings.model_validate(wrong)
