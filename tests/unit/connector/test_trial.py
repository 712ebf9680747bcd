"""A handler tried on one subscriber: what it would ask of its system, and what it asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.connector.console_request import InvalidRequest, read_request
from nsps.connector.preview import NoState
from nsps.connector.trial import Trial
from nsps.domain.event import Owner
from nsps.domain.snapshot import PbData
from nsps_testing.standard import Reply, ScriptedHttp, enriched, make_context

from functions.connectors.rest.connector import RestSystem
from functions.connectors.rest.description import Settings
from tests.connectors.test_rest import DESCRIPTION, TOKEN, Parties, snapshot
from tests.unit.connector.systems import REDACTOR, Box, Kit
from tests.unit.connector.test_preview import inspector

ME = Owner("account", "1000889")


@pytest.fixture
def parties() -> Parties:
    return Parties()


@pytest.fixture
def api(parties: Parties) -> Iterator[ScriptedHttp]:
    with ScriptedHttp(parties) as api:
        yield api


@pytest.fixture
def system(api: ScriptedHttp) -> RestSystem:
    settings = Settings.model_validate({**DESCRIPTION, "url": api.url})
    return RestSystem(settings, make_context({"credentials": TOKEN}))


def trial(store: Store, connector: Any, pb: PbData) -> Trial:
    kit = Kit(store, connector)
    looking = inspector(store, connector, a1000889=pb)
    return Trial(kit.settings, connector, looking, lambda: REDACTOR, kit.deliver)


def pb(**account: Any) -> PbData:
    return enriched(snapshot(**account)).pb


def requests(tried: dict[str, Any]) -> list[tuple[str, bool, str]]:
    return [(each["method"], each["sent"], each["meaning"]) for each in tried["exchanges"]]


def test_what_would_be_changed_is_shown_and_not_sent(
    store: Store, system: RestSystem, api: ScriptedHttp, parties: Parties
) -> None:
    tried = trial(store, system, pb()).of(ME, send=False)
    assert requests(tried) == [("GET", True, "done"), ("POST", False, "")]
    reading, create = tried["exchanges"]
    assert reading["query"] == {"externalId": 1000889} and reading["status"] == 200
    assert create["url"] == f"{api.url}/parties" and create["body"]["imsi"] == "001010000000003"
    assert create["status"] is None and tried["outcome"] is None
    assert [each["what"] for each in tried["resources"]] == ["missing"]
    assert parties.parties == {} and [each.method for each in api.requests] == ["GET"]
    assert TOKEN not in json.dumps(tried)


def test_with_send_it_is_delivered_and_the_answers_are_shown(
    store: Store, system: RestSystem, parties: Parties
) -> None:
    tried = trial(store, system, pb()).of(ME, send=True)
    assert requests(tried) == [("GET", True, "done"), ("POST", True, "done")]
    assert (tried["outcome"], tried["exchanges"][1]["status"]) == ("delivered", 201)
    assert parties.parties["1000889"]["state"] == "ENABLED"
    kept = store.read(store.resource("hss", "party/1000889"))
    assert kept is not None and kept["owner"] == str(ME)
    again = trial(store, system, pb()).of(ME, send=False)
    assert requests(again) == [("GET", True, "done")]
    assert [each["what"] for each in again["resources"]] == ["same"]


def test_a_change_and_a_removal(store: Store, system: RestSystem, parties: Parties) -> None:
    trial(store, system, pb()).of(ME, send=True)
    changed = trial(store, system, pb(blocked=True)).of(ME, send=False)
    assert requests(changed) == [("GET", True, "done"), ("PATCH", False, "")]
    gone = trial(store, system, pb(bill_status="terminated")).of(ME, send=False)
    assert requests(gone) == [("GET", True, "done"), ("DELETE", False, "")]
    assert parties.parties["1000889"]["state"] == "ENABLED"
    trial(store, system, pb(bill_status="terminated")).of(ME, send=True)
    assert parties.parties == {}


def test_no_secret_that_a_system_repeats_is_shown(
    store: Store, system: RestSystem, api: ScriptedHttp
) -> None:
    api.script(Reply(200, {"found": [], "seen": TOKEN, "password": "secret-4711"}))
    tried = json.dumps(trial(store, system, pb()).of(ME, send=False))
    assert TOKEN not in tried and "secret-4711" not in tried and "***" in tried


def test_what_cannot_be_made_says_why(store: Store, system: RestSystem, api: ScriptedHttp) -> None:
    api.always(Reply(422, {"error": "no such tariff"}))
    tried = trial(store, system, pb()).of(ME, send=True)
    assert "no such tariff" in tried["reason"] and tried["outcome"] in ("rejected", "retrying")
    rejected = trial(store, system, pb(i_account=None)).of(ME, send=False)
    assert [each["what"] for each in rejected["resources"]] == ["rejected"]


def test_a_connector_that_cannot_hold_its_requests_back_is_not_called(store: Store) -> None:
    box = Box()
    with pytest.raises(NoState, match="cannot show its requests"):
        trial(store, box, pb()).of(ME, send=False)
    assert box.writes == []


def test_a_question_without_an_owner(store: Store, system: RestSystem) -> None:
    with pytest.raises(InvalidRequest, match="owner"):
        read_request(b'{"send": true}').tried(trial(store, system, pb()))
