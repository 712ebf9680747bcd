"""The whole stack with a real OsmoHLR and a real PostgreSQL: what a webhook says is really there,
read back over CTRL and SQL."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from nsps.domain.outcome import Outcome
from nsps_local.daemons.osmo_hlr import osmo_hlr
from nsps_local.daemons.postgresql import postgresql
from nsps_testing.waiting import wait_for
from psycopg.rows import dict_row

from tests.end_to_end.whole_stack import DATABASE, SIMS, WholeStack, configuration

pytestmark = pytest.mark.timeout(240)

PASSWORD = "postgres-canary-4711"
_IPA_CTRL = b"\xee\x00"


@dataclass(frozen=True)
class Systems:
    """The stack and where its external systems are."""

    stack: WholeStack
    hlr: tuple[str, int]
    postgres: tuple[str, int]

    def subscriber(self, imsi: str) -> dict[str, str] | None:
        """What the HLR says of an IMSI over CTRL; None if it knows none."""
        with socket.create_connection(self.hlr, timeout=10) as ctrl:
            said = ctrl_get(ctrl, f"subscriber.by-imsi-{imsi}.info")
        if said is None:
            return None
        return dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)

    def rows(self, table: str) -> list[dict[str, Any]]:
        with self.session() as session:
            return session.execute(f"select * from {table}").fetchall()

    def session(self) -> psycopg.Connection[dict[str, Any]]:
        host, port = self.postgres
        return psycopg.connect(
            host=host, port=port, user="postgres", dbname="nsps", autocommit=True,
            row_factory=dict_row,
        )  # fmt: skip

    def account(self, i_account: int) -> dict[str, Any]:
        [row] = [row for row in self.rows("subscribers") if row["i_account"] == i_account]
        return row

    def holder(self, imsi: str) -> int | None:
        """Which account PostgreSQL has for a card."""
        return next((row["i_account"] for row in self.rows("sims") if row["imsi"] == imsi), None)

    def new_account(self) -> tuple[int, str, str]:
        """A new account with a card: its id, IMSI and number."""
        card = self.stack.new_card()
        i_account = self.stack.new_account(card["i_sim_card"])
        number = self.stack.accounts()[i_account]["id"].partition("@")[0]
        return i_account, card["imsi"], number

    def assert_active(self, imsi: str, i_account: int, number: str) -> None:
        found = self.subscriber(imsi)
        assert found is not None
        assert (found["msisdn"], found["nam_cs"], found["nam_ps"]) == (number, "1", "1")
        assert self.holder(imsi) == i_account
        row = self.account(i_account)
        assert (row["imsi"], row["status"], row["msisdn"]) == (imsi, "active", number)

    def assert_gone(self, imsi: str) -> None:
        assert self.subscriber(imsi) is None
        assert self.holder(imsi) is None


def ctrl_get(ctrl: socket.socket, variable: str) -> str | None:
    """One GET of OsmoHLR's control interface; None for an ERROR (no such subscriber)."""
    payload = _IPA_CTRL + f"GET 1 {variable}".encode()
    ctrl.sendall(struct.pack(">H", len(payload) - 1) + payload)
    length = struct.unpack(">H", received(ctrl, 2))[0]
    answer = received(ctrl, length + 1)[2:].decode()
    kind, _, rest = answer.partition(" ")
    return rest.split(" ", 2)[2] if kind == "GET_REPLY" else None


def received(ctrl: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = ctrl.recv(count - len(data))
        assert more, "OsmoHLR closed the connection"
        data += more
    return data


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systems]:
    folder = tmp_path_factory.mktemp("real")
    with osmo_hlr(folder) as hlr, postgresql() as postgres:
        host, port = postgres
        with psycopg.connect(
            host=host, port=port, user="postgres", dbname="postgres", autocommit=True
        ) as session:
            session.execute(f"create role nsps login password '{PASSWORD}'")
            session.execute("create database nsps owner nsps")
        url = {"url": f"postgresql://nsps@{host}:{port}/nsps"}
        secrets = {"password": "postgres-nsps"}
        handlers = [
            DATABASE | {"settings": DATABASE["settings"] | url, "secrets": secrets},
            SIMS | {"settings": SIMS["settings"] | url | {"table": "sims"}, "secrets": secrets},
            {
                "name": "hss",
                "connector": "hss_osmocom",
                "events": ["SIM/*", "Account/*", "Account/*/*"],
                "group": "HSS",
                "settings": {"host": hlr[0], "port": hlr[1]},
            },
        ]
        given = folder / "secrets.json"
        given.write_text(json.dumps({"postgres-nsps": PASSWORD}))
        with WholeStack(folder / "state", configuration(folder, handlers), given) as stack:
            yield Systems(stack, hlr, postgres)


def test_a_subscriber_is_created_barred_and_unbarred(systems: Systems) -> None:
    i_account, imsi, number = systems.new_account()
    systems.assert_active(imsi, i_account, number)
    systems.stack.do("block_account", i_account=i_account)
    found = systems.subscriber(imsi)
    assert found is not None
    assert (found["nam_cs"], found["nam_ps"]) == ("0", "0")
    assert systems.account(i_account)["status"] == "barred"
    systems.stack.do("unblock_account", i_account=i_account)
    systems.assert_active(imsi, i_account, number)
    assert systems.stack.statuses(i_account) == {"HSS": "OK", "Database": "OK", "Sims": "OK"}


def test_a_swap_that_does_not_name_the_old_card_removes_it(systems: Systems) -> None:
    i_account, old, number = systems.new_account()
    card = systems.stack.new_card()
    done = systems.stack.do("swap_sim", i_account=i_account, i_sim_card=card["i_sim_card"])
    named = systems.stack.variables(done["events"][0]["i_event"])
    assert not any("sim" in name for name in named), named
    systems.assert_active(card["imsi"], i_account, number)
    systems.assert_gone(old)


@pytest.mark.parametrize("first", ["loser", "winner"])
def test_a_card_that_moves_is_where_portabilling_has_it(systems: Systems, first: str) -> None:
    stack = systems.stack
    loser, imsi, _ = systems.new_account()
    winner = stack.new_account()
    card = stack.accounts()[loser]["sim"]["i_sim_card"]
    stack.send_paused(True)
    done = stack.sandbox.do("move_sim", i_sim_card=card, i_account=winner)
    wanted = [event["i_event"] for event in done["events"]]
    for i_event in wanted if first == "loser" else reversed(wanted):
        answer = stack.send("SIM/Replaced", **stack.variables(i_event))
        assert answer.status_code == 200
        stack.finished(i_event)
    number = stack.accounts()[winner]["id"].partition("@")[0]
    systems.assert_active(imsi, winner, number)
    assert systems.account(loser)["imsi"] is None
    stack.send_paused(False)
    stack.do("move_sim", i_sim_card=card, i_account=loser)
    number = stack.accounts()[loser]["id"].partition("@")[0]
    systems.assert_active(imsi, loser, number)
    assert systems.account(winner)["imsi"] is None


def test_a_terminated_account_is_gone_from_the_hlr(systems: Systems) -> None:
    i_account, imsi, _ = systems.new_account()
    systems.stack.do("close_account", i_account=i_account)
    systems.assert_gone(imsi)
    assert systems.account(i_account)["imsi"] is None


def test_a_locked_row_delays_its_own_handler_alone(systems: Systems) -> None:
    """The HLR is switched at once although PostgreSQL cannot be written for a while."""
    i_account, imsi, number = systems.new_account()
    with systems.session() as session, session.transaction():
        session.execute("select * from subscribers for update")
        done = systems.stack.sandbox.do("block_account", i_account=i_account)
        i_event = done["events"][0]["i_event"]

        def barred() -> bool:
            found = systems.subscriber(imsi)
            return found is not None and found["nam_cs"] == "0"

        wait_for(barred, 30, "the HLR to be switched")
        assert systems.stack.histories(i_event)[0].final is False
    systems.stack.all_finished([i_event])
    assert systems.account(i_account)["status"] == "barred"
    systems.stack.do("unblock_account", i_account=i_account)
    systems.assert_active(imsi, i_account, number)


def test_the_ledger_equals_what_the_systems_hold(systems: Systems) -> None:
    """After all of the above: nothing in the systems that the ledger does not know, or denies."""
    store = systems.stack.running.store
    held = {}
    for handler in ("hss", "sims"):
        found = store.client.collection("handlers", handler, "resources").stream()
        documents = [each.to_dict() or {} for each in found]
        held[handler] = {doc["key"]: doc["owner"] for doc in documents if doc.get("owner")}
        assert not any(doc.get("dirty") for doc in documents)
    assert held["hss"] == held["sims"]
    rows = {row["imsi"]: f"account:{row['i_account']}" for row in systems.rows("sims")}
    assert rows == held["sims"]
    assert all(systems.subscriber(imsi) for imsi in rows)


def test_the_password_is_in_no_log(systems: Systems) -> None:
    for name, text in systems.stack.logs().items():
        assert PASSWORD not in text, name


def test_everything_ended_well(systems: Systems) -> None:
    fine = {Outcome.DELIVERED, Outcome.UNCHANGED, Outcome.SUPERSEDED}
    for history in systems.stack.running.timeline.latest(100):
        assert {Outcome(str(each.outcome)) for each in history.deliveries} <= fine, history
