"""The connector li_x1: the standard tests before a double of a network element; warrants; and that
nothing tells a target from anybody else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from nsps.connector.base import State
from nsps.domain.event import Owner
from nsps.domain.outcome import Outcome, Terminal, Transient, Unclear
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.http import Http
from nsps.transport.tls import Tls
from nsps_testing.certificates import issued
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    StateStandardTests,
    UnderTheKit,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.li_x1.connector import LiX1, Settings
from functions.connectors.li_x1.protocol import CODES
from functions.connectors.li_x1.warrants import Warrants
from tests.connectors.network_element import ADMF, NE, X1, NetworkElement, PortaBillingDouble

KEY = "a-key-for-the-identifiers-of-tasks-0001"
DID = "6f9b3c1e-2f52-4a0e-8c43-0a5b1f2d7e11"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
TARGET, NUMBER, IMSI, NEW_IMSI = 1000889, "420777000003", "001010000000003", "001010000000004"
OTHER = 1000890


def warrant(liid: str = "LI-2026-1", **more: Any) -> dict[str, Any]:
    target = {} if "number" in more else {"account": TARGET}
    return {
        "liid": liid,
        "start": (NOW - HOUR).isoformat(),
        "end": (NOW + HOUR).isoformat(),
        "delivery": "X2andX3",
        "destinations": [DID],
        **target,
        **more,
    }


def listed(*warrants: dict[str, Any]) -> str:
    return json.dumps({"key": KEY, "warrants": warrants})


def xid(liid: str = "LI-2026-1") -> str:
    warrants = Warrants.read(SecretValue(listed(warrant(liid))))
    return warrants.xid(warrants.warrants[0])


def snapshot(
    i_account: int = TARGET, number: str = NUMBER, imsi: str | None = IMSI, **account: Any
) -> dict[str, Any]:
    usual = {"i_account": i_account, "id": f"{number}@msisdn", "bill_status": "open"}
    sim = {"i_sim_card": i_account, "imsi": imsi, "iccid": f"89{imsi}"}
    return {"account_info": {**usual, **account}, "sim_info": sim if imsi else None}


class Network:
    """A network element, PortaBilling, a list of warrants, and the connector between them."""

    def __init__(self, url: str, element: NetworkElement, http: Http | None = None) -> None:
        self.element, self.portabilling = element, PortaBillingDouble()
        self.list = listed(warrant())
        context = make_context({"warrants": self.list}, handler="li")
        made: Any = self.portabilling
        context = replace(
            context,
            http=http or context.http,
            secret=lambda _name: SecretValue(self.list, "sm://warrants"),
            portabilling=lambda: made,
        )
        settings = {"url": url, "admf": ADMF, "ne": NE, "event_seconds": 0.2, "allow_http": True}
        self.context = context
        self.connector = LiX1(Settings.model_validate(settings), context)
        self.has(snapshot())

    def has(self, pb: dict[str, Any]) -> None:
        """What PortaBilling says from now on."""
        account, sim = pb["account_info"], pb["sim_info"]
        self.portabilling.accounts[account["i_account"]] = account
        self.portabilling.sims.pop(account["i_account"], None)
        if sim:
            self.portabilling.sims[account["i_account"]] = {
                **sim,
                "i_account": account["i_account"],
            }

    def tick(self) -> None:
        self.connector.on_schedule(make_call())

    def event(self, pb: dict[str, Any]) -> None:
        ((key, state),) = self.connector.desired(enriched(pb)).items()
        self.connector.create(key, state, make_call())

    @property
    def targets(self) -> dict[str, dict[str, str]]:
        return {each: self.element.identities(each) for each in self.element.tasks}


@pytest.fixture
def network() -> Iterator[Network]:
    element = NetworkElement()
    with ScriptedHttp(element) as system:
        yield Network(system.url, element)


ACTIVE = {xid(): {"e164Number": NUMBER, "imsi": IMSI}}


class TestLiX1(StateStandardTests, HttpStandardTests):
    connector_class = LiX1
    pb: ClassVar = snapshot()
    changed_pb: ClassVar = snapshot(imsi=NEW_IMSI)
    secrets: ClassVar = {"warrants": listed(warrant())}
    canaries = (NUMBER, IMSI, NEW_IMSI, xid())
    hidden_failures = (Reply(200, {}), Reply(204), Reply(200, "<X1Response/>"))
    rules = AnswerRules((AnswerRule(Meaning.UNCLEAR, status="5xx"),))

    @pytest.fixture
    def system(self) -> Iterator[ChaosProxy]:
        self.element = NetworkElement()
        with ScriptedHttp(self.element) as double, ChaosProxy(double.address) as proxy:
            yield proxy

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": url, "admf": ADMF, "ne": NE, "event_seconds": 0.05, "allow_http": True}

    def make(self, settings: Any) -> LiX1:
        client: Any = PortaBillingDouble()
        client.accounts[TARGET] = self.pb["account_info"]
        context = replace(make_context(self.secrets), portabilling=lambda: client)
        self.network = client
        return LiX1(Settings.model_validate(dict(settings)), context)

    def assert_holds(self, connector: Any, key: str, state: State | None) -> None:
        """What PortaBilling says has reached the network by the next tick; a removal, nothing."""
        if state is not None:
            imsi = state["identities"].json()["imsi"]
            self.network.sims[TARGET] = {"i_account": TARGET, "imsi": imsi, "iccid": "89"}
            connector.on_schedule(make_call())
            assert self.element.identities(xid()) == {"e164Number": NUMBER, "imsi": imsi}


class TestWarrants:
    def test_a_task_lives_as_long_as_its_warrant(self, network: Network) -> None:
        early = warrant(start=(NOW + HOUR).isoformat(), end=(NOW + 2 * HOUR).isoformat())
        network.list = listed(early)
        network.tick()
        assert network.targets == {}
        network.list = listed(warrant())
        network.tick()
        assert network.targets == ACTIVE
        over = warrant(start=(NOW - 2 * HOUR).isoformat(), end=(NOW - HOUR).isoformat())
        network.list = listed(over)
        network.tick()
        assert network.targets == {}

    def test_a_task_whose_warrant_left_the_list_ends_and_no_other(self, network: Network) -> None:
        network.tick()
        foreign = "0e8a5f0e-57a2-4d3b-9d0f-3f8a7a2f6a01"  # another administration's
        network.element.tasks[foreign] = network.element.tasks[xid()]
        network.list = listed()
        network.tick()
        assert set(network.targets) == {foreign}

    @pytest.mark.parametrize("way", ["event", "tick"])
    def test_sim_and_number_are_followed(self, network: Network, way: str) -> None:
        network.tick()
        for number, imsi in ((NUMBER, NEW_IMSI), ("420777000009", NEW_IMSI)):
            now = snapshot(number=number, imsi=imsi)
            network.has(now)
            if way == "tick":
                network.tick()
            else:
                network.event(now)
            assert network.targets == {xid(): {"e164Number": number, "imsi": imsi}}
        assert network.element.operations.count("ActivateTask") == 1
        network.has(snapshot(imsi=None))  # the card may be another's soon
        network.tick()
        assert network.targets == {xid(): {"e164Number": NUMBER}}

    @pytest.mark.parametrize(
        "closed", [{"bill_status": "terminated"}, {"status": "closed"}], ids=["bill", "status"]
    )
    def test_what_portabilling_closes_stays_a_target(
        self, network: Network, closed: dict[str, Any]
    ) -> None:
        network.tick()
        network.has(snapshot(imsi=None, **closed))
        network.event(snapshot(imsi=None, **closed))
        network.connector.delete(f"account:{TARGET}", None, make_call())
        network.tick()
        network.portabilling.accounts.clear()
        network.tick()
        assert network.targets == ACTIVE

    def test_a_read_that_fails_changes_nothing(self, network: Network) -> None:
        network.tick()
        network.portabilling.error = Transient("PortaBilling is away")
        with pytest.raises(Transient, match="not every warrant"):
            network.tick()
        assert network.targets == ACTIVE

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "short", "warrants": []}'])
    def test_a_list_that_cannot_be_used_changes_nothing(self, network: Network, text: str) -> None:
        network.tick()
        network.list = text
        for attempt in (network.tick, lambda: network.event(snapshot(imsi=NEW_IMSI))):
            with pytest.raises(Transient, match="secret warrants cannot be used"):
                attempt()
        assert network.targets == ACTIVE

    def test_a_number_is_intercepted_whoever_has_it(self, network: Network) -> None:
        network.list = listed(warrant(number=NUMBER))
        network.portabilling.accounts.clear()
        network.tick()
        assert network.targets == {xid(): {"e164Number": NUMBER}}
        network.has(snapshot(OTHER, imsi=NEW_IMSI))
        network.tick()
        assert network.targets == {xid(): {"e164Number": NUMBER, "imsi": NEW_IMSI}}

    def test_an_account_without_a_number_is_not_taken_for_a_target(self, network: Network) -> None:
        network.tick()
        network.event(snapshot(OTHER, number="alice", imsi=NEW_IMSI))
        assert network.targets == ACTIVE

    def test_an_event_activates_nothing(self, network: Network) -> None:
        """This instance may still have a list from which the warrant was taken."""
        network.event(snapshot())
        assert network.targets == {}

    def test_what_was_changed_or_lost_in_the_network_is_repaired(self, network: Network) -> None:
        network.tick()
        network.element.tasks[xid()].find(f"{X1}targetIdentifiers").clear()  # type: ignore[union-attr]
        network.tick()
        assert network.targets == ACTIVE
        network.element.tasks.clear()  # it was restarted, and its memory lost
        network.event(snapshot())
        network.tick()
        assert network.targets == ACTIVE
        network.element.operations.clear()
        network.tick()
        assert network.element.operations == ["ListAllDetails", "GetTaskDetails"]

    def test_one_that_fails_does_not_stop_the_others(self, network: Network) -> None:
        lost = warrant("LI-2026-2", account=OTHER)
        network.list = listed(lost, warrant())
        with pytest.raises(Transient):
            network.tick()
        assert network.targets == ACTIVE
        shown = network.connector.confidential(make_call())
        assert [(each["liid"], each["network"]) for each in shown] == [
            ("LI-2026-2", "unknown"),
            ("LI-2026-1", "active"),
        ]
        assert "no number and no SIM card" in shown[0]["problem"]

    def test_a_mediation_function_gets_the_warrant_and_its_time(self, network: Network) -> None:
        settings = network.connector.settings.model_copy(update={"mediation": True})
        network.connector = LiX1(settings, network.context)
        network.tick()
        details = network.element.tasks[xid()].find(f"{X1}listOfMediationDetails/*")
        assert details is not None
        liid, kind, _start, end = (each.text or "" for each in details)
        assert (liid, kind) == ("LI-2026-1", "HI2andHI3")
        assert datetime.fromisoformat(end) == NOW + HOUR
        network.element.operations.clear()
        network.tick()
        assert "ModifyTask" not in network.element.operations

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"end": (NOW - 2 * HOUR).isoformat()}, "end is not after start"),
            ({"number": NUMBER, "account": 5}, "account or number"),
            ({"start": "2026-11-21T02:10:03"}, "start"),
            ({"destinations": []}, "destinations"),
            ({"liid": "x" * 26}, "liid"),
            ({NUMBER: "a number where a name belongs"}, "unknown key"),
        ],
    )
    def test_a_wrong_warrant_is_named_by_its_place_alone(
        self, wrong: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(Transient, match=said) as refused:
            Warrants.read(SecretValue(listed(warrant("LI-1"), warrant("LI-2") | wrong)))
        assert "warrants.1" in str(refused.value)
        assert NUMBER not in str(refused.value) and "LI-" not in str(refused.value)

    def test_the_same_warrant_twice_is_refused(self) -> None:
        with pytest.raises(Transient, match="twice"):
            Warrants.read(SecretValue(listed(warrant(), warrant())))


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
    '<X1Response xmlns="http://uri.etsi.org/03221/X1/2017/10">&c;</X1Response>'
)


class TestAnswers:
    @pytest.mark.parametrize(
        "odd",
        [
            BOMB,
            "<X1Response",
            '<?xml version="1.0" encoding="no-such"?><a/>',
            '<X1TopLevelErrorResponse xmlns="http://uri.etsi.org/03221/X1/2017/10"/>',
            lambda body: body[: len(body) // 2],
            lambda body: body.replace(f">{NE}<", ">ne-2<"),
            lambda body: body.replace("<x1TransactionId>", "<x1TransactionId>0"),
            lambda body: body.replace("AcknowledgedAndCompleted", ""),
            lambda body: body.replace("PingResponse", "GetTaskDetailsResponse"),
        ],
        ids=[
            "bomb", "torn", "encoding", "top level", "half", "other element", "other request",
            "not done", "other kind",
        ],
    )  # fmt: skip
    def test_what_is_no_answer_is_none(
        self, network: Network, odd: str | Callable[[str], str]
    ) -> None:
        network.element.odd["Ping"] = odd
        with pytest.raises(Unclear):
            network.connector.check(make_call())

    @pytest.mark.parametrize("code", [*CODES, 9999])
    def test_an_error_in_a_200_is_one_and_quotes_nothing(self, network: Network, code: int) -> None:
        network.element.odd["ActivateTask"] = network.element.odd["ModifyTask"] = code
        with pytest.raises(Transient):
            network.tick()
        assert network.targets == {}
        client = network.connector._tasks.x1
        with pytest.raises((Transient, Terminal), match=f"error {code}") as refused:
            client._ask("ModifyTask", make_call())
        assert NUMBER not in str(refused.value) and ADMF not in str(refused.value)

    def test_the_details_of_another_task_are_not_taken(self, network: Network) -> None:
        network.tick()
        network.element.odd["GetTaskDetails"] = lambda body: body.replace(xid(), xid("LI-2"))
        network.has(snapshot(imsi=NEW_IMSI))
        with pytest.raises(Transient):
            network.tick()
        assert network.targets == ACTIVE

    def test_without_a_list_of_tasks_nothing_ends(self, network: Network) -> None:
        network.tick()
        network.list = listed()
        network.element.odd["ListAllDetails"] = lambda body: body.replace("listOfXIDs", "other")
        with pytest.raises(Unclear):
            network.tick()
        assert network.targets == ACTIVE

    def test_plain_http_has_to_be_asked_for(self) -> None:
        with pytest.raises(ValidationError, match="allow_http"):
            Settings(url="http://ne.example.net", admf=ADMF, ne=NE)


class TestNobodyCanTell:
    """An event of a target, and one of anybody else, leave the same behind."""

    def left_behind(self, network: Network, i_account: int, number: str, imsi: str) -> Any:
        tests = TestLiX1()
        kit = UnderTheKit(tests, network.connector)
        owner = Owner("account", str(i_account))
        steps = [
            snapshot(i_account, number, imsi),
            snapshot(i_account, number, imsi[:-1] + "9"),
            snapshot(i_account, number, imsi[:-1] + "9", bill_status="terminated"),
            {},
        ]
        outcomes = []
        for step, pb in enumerate(steps):
            t = f"2026-11-21T02:10:0{step}.000000Z"
            event = tests.enriched(pb, variables={"i_event": step}, owner=owner, t=t)
            outcomes.append(kit.deliver(event))
        kept = json.dumps(kit.kept(), default=str, sort_keys=True)
        return outcomes, kept

    def test_in_outcomes_and_in_what_is_kept(self, network: Network) -> None:
        network.tick()
        network.element.odd["ModifyTask"] = 3001  # what only a target's event could run into
        target, kept = self.left_behind(network, TARGET, NUMBER, IMSI)
        other, of_other = self.left_behind(network, OTHER, "420777000077", "001010000000077")
        assert target == other == [Outcome.DELIVERED] * 4
        assert _shape(kept) == _shape(of_other)
        for text in (NUMBER, IMSI, xid(), "LI-2026-1"):
            assert text not in kept

    @pytest.mark.parametrize("odd", [None, 3001, "hang"])
    def test_in_the_time_that_an_event_takes(self, network: Network, odd: Any) -> None:
        network.tick()
        if odd == "hang":
            network.element.odd["GetTaskDetails"] = lambda body: time.sleep(1) or body  # type: ignore[func-returns-value]
        elif odd:
            network.element.odd["ModifyTask"] = odd
        took = []
        for pb in (snapshot(imsi=NEW_IMSI), snapshot(OTHER, "420777000077")):
            began = time.monotonic()
            network.event(pb)
            took.append(time.monotonic() - began)
        assert min(took) >= 0.2
        assert abs(took[0] - took[1]) < 0.05, took

    def test_an_outage_is_the_same_for_all(self, network: Network) -> None:
        network.tick()
        network.element.odd["Ping"] = 1000
        said = []
        for pb in (snapshot(), snapshot(OTHER, "420777000077")):
            with pytest.raises(Transient) as error:
                network.event(pb)
            said.append(str(error.value))
        assert said[0] == said[1]


def _shape(kept: str) -> Any:
    """What was kept, without what differs between any two accounts: hashes, ids, times."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walk(each) for name, each in value.items()}
        if isinstance(value, list):
            return sorted((walk(each) for each in value), key=str)
        return type(value).__name__

    return walk(json.loads(kept))


class TestMutualTls:
    def test_only_who_shows_the_right_certificate_is_answered(self, tmp_path: Path) -> None:
        authority, stranger = issued("li-authority"), issued("stranger")
        server = issued("localhost", authority).server_side(tmp_path, authority)
        element = NetworkElement()
        with ScriptedHttp(element, server) as system:

            def with_certificate(pem: str | None) -> Network:
                secrets = {"ca": authority.cert_pem}
                if pem:
                    secrets["client_certificate"] = pem
                tls = Tls(lambda name: SecretValue(secrets[name]), secrets.__contains__)
                return Network(system.url, element, Http(tls=tls))

            for wrong in (None, issued("nsps", stranger).pem):
                with pytest.raises(Transient):
                    with_certificate(wrong).tick()
            assert element.operations == []
            network = with_certificate(issued("nsps", authority).pem)
            network.tick()
            network.connector.check(make_call())
            assert network.targets == ACTIVE
