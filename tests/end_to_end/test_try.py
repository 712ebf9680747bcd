"""A REST system that is described in the stack's file alone, tried and provisioned: over the whole
stack, from the webhook to the system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nsps_testing.faults import ScriptedHttp
from nsps_testing.waiting import wait_for

from tests.connectors.test_rest import DESCRIPTION, TOKEN, Parties
from tests.end_to_end.whole_stack import WholeStack, configuration

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class World:
    stack: WholeStack
    parties: Parties

    def state(self, i_account: int) -> str | None:
        party = self.parties.parties.get(str(i_account))
        return None if party is None else str(party["state"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("try")
    parties = Parties()
    with ScriptedHttp(parties) as api:
        handler = {
            "name": "crm",
            "connector": "rest",
            "events": ["SIM/*", "Account/*", "Account/*/*"],
            "settings": {**DESCRIPTION, "url": api.url},
            "secrets": {"credentials": "crm-token"},
        }
        given = folder / "secrets.json"
        given.write_text(json.dumps({"crm-token": TOKEN}))
        with WholeStack(folder / "state", configuration(folder, [handler]), given) as stack:
            yield World(stack, parties)


def test_a_described_system_follows_portabilling(world: World) -> None:
    i_account = world.stack.new_account(world.stack.new_card()["i_sim_card"])
    assert world.state(i_account) == "ENABLED"
    world.stack.do("block_account", i_account=i_account)
    assert world.state(i_account) == "LOCKED"
    world.stack.do("close_account", i_account=i_account)
    wait_for(lambda: world.state(i_account) is None, 30, "the party to be removed")


def test_a_handler_is_tried_before_anything_is_sent(world: World) -> None:
    i_account = world.stack.new_account(world.stack.new_card()["i_sim_card"])
    del world.parties.parties[str(i_account)]
    tried = world.stack.nsps("try", "crm", "--account", str(i_account))
    assert tried.returncode == 0, tried
    assert "POST" in tried.stdout and "not sent" in tried.stdout and "--send" in tried.stdout
    assert world.state(i_account) is None
    sent = world.stack.nsps("try", "crm", "--account", str(i_account), "--send")
    assert sent.returncode == 0, sent
    assert "201: done" in sent.stdout and "delivered" in sent.stdout
    assert world.state(i_account) == "ENABLED"
    assert TOKEN not in tried.stdout + sent.stdout
    audit = world.stack.nsps("audit")
    assert "try" in audit.stdout and "crm" in audit.stdout, audit
