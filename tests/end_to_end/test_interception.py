"""Lawful interception over the whole stack: the network element follows the warrant, and nothing
that the stack keeps, logs or shows tells the target from another subscriber."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_testing.faults import ScriptedHttp
from nsps_testing.waiting import wait_for

from tests.connectors.network_element import ADMF, NE, NetworkElement
from tests.connectors.test_li_x1 import KEY, warrant, xid
from tests.end_to_end.test_canaries import Sinks
from tests.end_to_end.whole_stack import WholeStack, configuration

pytestmark = pytest.mark.timeout(300)

LIID = "LI-Kanarienvogel-7"
NUMBER = "447700900123"
DID = "5d1c7a52-3b0e-4a55-9a43-77c1f2ab9e10"
CANARIES = {"liid": LIID, "xid": xid(LIID), "did": DID, "key": KEY}


@dataclass
class World:
    stack: WholeStack
    element: NetworkElement
    target: int
    other: int
    shown: dict[str, bytes] = field(default_factory=dict)
    events: dict[str, list[int]] = field(default_factory=dict)
    """Of the target and of the other: one after the other, so that they are alike."""
    statuses: dict[str, dict[str, str]] = field(default_factory=dict)
    looks: dict[str, requests.Response] = field(default_factory=dict)
    """At what is confidential, by role; the operator has the role interception too."""

    def warrants(self, *listed: dict[str, Any]) -> None:
        document = {"key": KEY, "warrants": list(listed)}
        self.stack.put_secret("e2e-warrants", json.dumps(document))

    def tick(self) -> None:
        self.stack.tick()

    def ended(self) -> bool:
        """Whether there is no task, after another tick."""
        self.tick()
        return self.identities() is None

    def identities(self) -> dict[str, str] | None:
        """Of the warrant's task; None where there is none."""
        there = CANARIES["xid"] in self.element.tasks
        return self.element.identities(CANARIES["xid"]) if there else None

    def confidential(self, person: str) -> requests.Response:
        described = self.stack.description["console"]
        token = TokenIssuer(self.stack.state / "pubsub").token(person, described["audience"])
        url = f"{described['url']}/api/handlers/li/confidential"
        return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("interception")
    element = NetworkElement()
    with ScriptedHttp(element) as system:
        settings = {"url": system.url, "admf": ADMF, "ne": NE, "event_seconds": 0.3}
        handler = {
            "name": "li",
            "connector": "li_x1",
            "events": ["SIM/*", "Account/*", "Account/*/*"],
            "group": "LawfulInterception",
            "settings": {**settings, "allow_http": True},
            "secrets": {"warrants": "warrants"},
        }
        given = folder / "secrets.json"
        given.write_text(json.dumps({"warrants": {"key": KEY, "warrants": []}}))
        console = {"nsps:console": {"interception": ["operator@localhost"]}}
        config = configuration(folder, [handler], **console)
        stack = WholeStack(folder / "state", config, given)
        try:
            stack.start()
            world = _driven(World(stack, element, 0, 0))
        finally:
            stack.stop()  # its databases are searched
        yield world


def _driven(world: World) -> World:
    """The same happens to both accounts; one of them is the target of a warrant."""
    stack, element = world.stack, world.element
    cards = [stack.new_card() for _ in range(2)]
    world.target, world.other = (stack.new_account(card["i_sim_card"]) for card in cards)
    world.warrants(warrant(LIID, account=world.target, destinations=[DID]))
    world.tick()
    assert (world.identities() or {})["imsi"] == cards[0]["imsi"]
    element.odd["ModifyTask"] = 3001  # what only the target's event can run into
    both = {"target": world.target, "other": world.other}
    for (name, i_account), number in zip(both.items(), (NUMBER, "447700900124"), strict=True):
        done = [
            stack.do("change_account_id", i_account=i_account, msisdn=number),
            stack.do("block_account", i_account=i_account),
        ]
        world.events[name] = [each["i_event"] for one in done for each in one["events"]]
    element.odd.clear()
    world.tick()
    kept = {"e164Number": NUMBER, "imsi": cards[0]["imsi"]}
    assert world.identities() == kept, "what the event could not do the schedule does"
    for i_account in both.values():
        stack.do("close_account", i_account=i_account)
    world.tick()
    assert world.identities() == kept, "PortaBilling ends no interception"
    for name, i_account in both.items():
        world.statuses[name] = stack.statuses(i_account)
        for command in (["explain", f"account:{i_account}"], ["events", "--account", i_account]):
            said = stack.nsps(*map(str, command), "--json")
            world.shown[f"{command[0]} of {name}"] = said.stdout.encode()
    world.shown["reconcile"] = stack.nsps("reconcile", "li", "--all").stdout.encode()
    for role in ("viewer", "operator", "admin"):
        world.looks[role] = world.confidential(f"{role}@localhost")
    now = datetime.now(UTC)
    over = {"start": (now - timedelta(2)).isoformat(), "end": (now - timedelta(1)).isoformat()}
    world.warrants(warrant(LIID, account=world.target, destinations=[DID], **over))
    wait_for(world.ended, 20, "the warrant to end the task: the list is read every 2 s at most")
    return world


def test_both_have_the_same_history_and_status(world: World) -> None:
    def histories(name: str) -> list[Any]:
        events = json.loads(world.shown[f"events of {name}"])
        return [
            (each["event_type"], [_without_numbers(d) for d in each["deliveries"]])
            for each in events
            if int(each["i_event"]) in world.events[name]
        ]

    assert histories("target") == histories("other")
    assert len(histories("target")) == len(world.events["target"]) >= 2
    assert world.statuses["target"] == world.statuses["other"] == {"LawfulInterception": "OK"}


def _without_numbers(delivery: dict[str, Any]) -> Any:
    """A delivery without what differs between any two: ids, times, hashes."""

    def walk(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: walk(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [walk(each) for each in value]
        words = ("outcome", "action", "handler", "what", "state", "errors", "status")
        return value if name in words or not isinstance(value, str | int | float) else type(value)

    return walk(delivery)


def test_the_calls_of_both_take_the_same_time(world: World) -> None:
    took: dict[str, list[float]] = {}
    for name in ("target", "other"):
        for event in json.loads(world.shown[f"events of {name}"]):
            for result in (each for d in event["deliveries"] for each in d["results"]):
                if "took_ms" in result:
                    took.setdefault(name, []).append(result["took_ms"])
    assert len(took["target"]) == len(took["other"]) >= 2
    assert all(each >= 300 for times in took.values() for each in times), took


def test_no_sink_tells_of_the_warrant(world: World) -> None:
    sinks = Sinks()
    for file in (world.stack.state / "logs").glob("*.log"):
        sinks.add(file.name, file.read_bytes())
    for database in (world.stack.state / "pubsub", world.stack.state / "firestore"):
        for file in (*database.glob("*.db"), *database.glob("*.sqlite")):
            sinks.add_database(file)
    for place, shown in {**world.shown, "nsps up": world.stack.output().encode()}.items():
        sinks.add(place, shown)
    assert len(sinks.found) > 20
    assert sinks.leaks(CANARIES) == []


def test_only_the_role_interception_may_look(world: World) -> None:
    assert [world.looks[role].status_code for role in ("viewer", "admin")] == [403, 403]
    (shown,) = world.looks["operator"].json()["confidential"]
    assert (shown["liid"], shown["network"]) == (LIID, "active")
    assert shown["identities"]["e164Number"] == NUMBER
