"""SIGKILL at random moments under load: to one part, or to everything; then a checker looks at what
was acknowledged, what the external systems saw, what PortaBilling has and what ESPF heard.

The load changes subscribers in the sandbox (blocks, SIM swaps, SIM moves), each change under a
version of its own in the subscriber's name; the sandbox's event sender does the rest. The external
systems are the test's and live on: one that takes a state per account and is slow enough to see two
writers, one that counts each message, and a table of SIM cards whose triggers note each write.

The sandbox is PortaBilling, the truth: it dies with everything (its events and what it sent are in
its database, and what it does not know to be acknowledged it sends again), but never alone.

NSPS_KILLS and NSPS_KILL_SEED: how many kills, and the seed of an earlier run.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps_local.scenario import ScenarioFailed
from nsps_testing.waiting import wait_for

from tests.end_to_end.history_checker import (
    Acknowledged,
    Delivery,
    Kill,
    MessageSystem,
    PostedStatus,
    ReceivedMessage,
    Run,
    State,
    StateSystem,
    Write,
    violations,
)
from tests.end_to_end.recorder import Received, Recorder
from tests.end_to_end.whole_stack import SIMS, WholeStack, configuration, webhook

KILLS = int(os.environ.get("NSPS_KILLS", "20"))
SEED = int(os.environ.get("NSPS_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
SUBSCRIBERS = 8
CHANGES_A_SECOND = 6.0
REFUSED = 0.05
"""How many of the CRM's answers are 503, and nothing written: those are told to ESPF as RETRY."""
PARTS = ("ingress", "enrichment", "retries", "sims", "crm", "mail", "pubsub", "firestore")
EVERYTHING_EVERY = 5
"""One kill in so many is of everything."""

pytestmark = pytest.mark.timeout(180 + 15 * KILLS)

WATCH = """
create table writes (
  seq integer primary key autoincrement, imsi, i_account, name, status,
  at default ((julianday('now') - 2440587.5) * 86400.0));
create trigger inserted after insert on subscribers begin
  insert into writes (imsi, i_account, name, status)
  values (new.imsi, new.i_account, new.name, new.status); end;
create trigger updated after update on subscribers begin
  insert into writes (imsi, i_account, name, status)
  values (new.imsi, new.i_account, new.name, new.status); end;
create trigger deleted after delete on subscribers begin
  insert into writes (imsi) values (old.imsi); end;
"""


@dataclass
class Subscribers:
    """The load: changes subscribers in the sandbox, and keeps every state that they had there."""

    stack: WholeStack
    accounts: list[int]
    cards: dict[int, str]
    """i_sim_card -> IMSI."""
    chance: random.Random
    versions: dict[str, list[State]] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    _number: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Subscribers:
        self._pool = ThreadPoolExecutor(1)
        self._ran = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        self._ran.result()

    def note(self) -> dict[int, dict[str, Any]]:
        """The subscribers as they are now; every state that is new is kept."""
        found = self._accounts()
        for i_account in self.accounts:
            states = self.versions.setdefault(str(i_account), [])
            now = state_of(found[i_account]["firstname"], found[i_account]["blocked"] == "Y")
            if not states or states[-1] != now:
                states.append(now)
        return found

    def _run(self) -> None:
        while not self._over.wait(self.chance.expovariate(CHANGES_A_SECOND)):
            self._change()

    def _change(self) -> None:
        i_account, other = self.chance.sample(self.accounts, 2)
        now = self.note()[i_account]
        turned = "unblock" if now["blocked"] == "Y" else "block"
        kind = self.chance.choice([turned, "swap", "move"] if now["sim"] else [turned, "assign"])
        self._do("update_account", i_account=i_account, firstname=self._version())
        if kind == turned:
            self._do(f"{turned}_account", i_account=i_account)
        elif kind == "move":
            self._do("update_account", i_account=other, firstname=self._version())
            card = now["sim"]["i_sim_card"]
            self._do("move_sim", i_sim_card=card, i_account=other)
        else:
            self._do(f"{kind}_sim", i_account=i_account, i_sim_card=self._free_card())
        self.changes[kind] += 1

    def _version(self) -> str:
        self._number += 1
        return f"v{self._number}"

    def _free_card(self) -> int:
        held = {a["sim"]["i_sim_card"] for a in self._accounts().values() if a["sim"]}
        return self.chance.choice(sorted(self.cards.keys() - held))

    def _do(self, operation: str, **parameters: Any) -> None:
        """Done for certain: what a kill left without an answer is asked for again."""
        asked_before = False
        while True:
            try:
                self.stack.sandbox.do(operation, **parameters)
            except requests.RequestException:
                asked_before = True
                time.sleep(0.1)
                continue
            except ScenarioFailed:
                assert asked_before, f"{operation} {parameters} is refused"
            self.note()
            return

    def _accounts(self) -> dict[int, dict[str, Any]]:
        """Once the sandbox is there."""
        while True:
            try:
                return self.stack.accounts()
            except requests.RequestException:
                time.sleep(0.1)


def state_of(version: str | None, blocked: bool) -> State:
    return version, "barred" if blocked else "active"


@dataclass
class Place:
    """The stack under load, and the systems that outlive it."""

    stack: WholeStack
    crm: Recorder
    mail: Recorder
    load: Subscribers
    chance: random.Random
    kills: list[Kill] = field(default_factory=list)

    def kill_something(self) -> None:
        everything = len(self.kills) % EVERYTHING_EVERY == EVERYTHING_EVERY - 1
        what = "everything" if everything else self.chance.choice(PARTS)
        began = time.time()
        if everything:
            self.stack.kill()
            self.stack.start()
        else:
            self.stack.kill_part(what)
            self.stack.answering(what)
        self.kills.append(Kill(what, began, time.time()))

    def settle(self) -> None:
        """Nothing is left to be sent, delivered or told; back-offs are cut short."""

        def settled() -> bool:
            counts = self.stack.get("/sandbox/events?limit=1")["counts"]
            if counts.get("waiting", 0) or counts.get("sending", 0):
                return False
            self.stack.hurry()
            time.sleep(0.5)  # each attempt that finds a dead writer's lease counts
            return self.stack.backlog() == 0 and not self.stack.tick()["statuses"]

        wait_for(settled, 120, f"everything to be settled: {self.stack.figures()}")

    def evidence(self) -> Run:
        """Everything that the checker is given."""
        return Run(
            acknowledged=list(self.acknowledged()),
            kills=self.kills,
            versions=self.load.versions,
            states=[self.crm_saw(), self.sims_saw()],
            messages=[
                MessageSystem("mail", [received_message(each) for each in self.mail.received])
            ],
            handlers=["crm", "mail", "sims"],
            deliveries=list(self.deliveries()),
            posted=[
                PostedStatus(each["i_account"], each["group"], each["status"])
                for each in self.stack.get("/sandbox/statuses?limit=100000")["statuses"]
            ],
        )

    def acknowledged(self) -> Iterator[Acknowledged]:
        for event in self.stack.get("/sandbox/events?limit=100000")["events"]:
            for attempt in event["attempts"]:
                if attempt["status"] == 200:
                    event_id = json.loads(attempt["answer"])["event_id"]
                    yield Acknowledged(event_id, attempt["at"] + attempt["seconds"])

    def deliveries(self) -> Iterator[Delivery]:
        store = self.stack.running.store
        for name, described in self.stack.description["handlers"].items():
            found = store.handler(name).collection("deliveries").stream()
            for each in found:
                data = each.to_dict() or {}
                yield Delivery(
                    each.id,
                    name,
                    data.get("outcome"),
                    data.get("t") or "",
                    data.get("i_account"),
                    described["group"],
                )

    def crm_saw(self) -> StateSystem:
        writes = [
            Write(
                str(each.i_account),
                str(each.i_account),
                state_of(each.account["firstname"], each.account["blocked"]),
                each.began,
                each.ended,
                each.event_id,
            )
            for each in self.crm.received
            if each.i_account is not None and each.answered == 200
        ]
        return StateSystem(
            "crm",
            writes,
            has={write.resource: write.state for write in writes},
            should={owner: states[-1] for owner, states in self.load.versions.items()},
        )

    def sims_saw(self) -> StateSystem:
        writes = [
            Write(
                row["imsi"],
                None if row["i_account"] is None else str(row["i_account"]),
                (row["name"], row["status"]),
                row["at"],
                row["at"],
            )
            for row in self.stack.rows("sims.db", "select * from writes order by seq")
        ]
        rows = self.stack.rows("sims.db", "select * from subscribers")
        should = {
            account["sim"]["imsi"]: (
                str(i_account),
                *(account["firstname"], "barred" if account["blocked"] == "Y" else "active"),
            )
            for i_account, account in self.stack.accounts().items()
            if account["sim"]
        }
        has = {r["imsi"]: (str(r["i_account"]), r["name"], r["status"]) for r in rows}
        return StateSystem("sims", writes, has, should)


def received_message(received: Received) -> ReceivedMessage:
    return ReceivedMessage(received.event_id, received.began, received.ended)


def takes_its_time(chance: random.Random) -> Callable[[Received], int]:
    """A system that is slow enough for two writers to be seen, and refuses some."""

    def answer(_: Received) -> int:
        time.sleep(chance.uniform(0.01, 0.08))
        return 503 if chance.random() < REFUSED else 200

    return answer


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    chance = random.Random(SEED)
    with Recorder() as crm, Recorder() as mail:
        every = webhook(mail.url, "mail", group="Mail", call_timeout_seconds=15)
        every["settings"]["ordering"] = "every"
        config = configuration(tmp_path, [SIMS, webhook(crm.url, "crm"), every])
        with WholeStack(tmp_path / "state", config) as stack:
            cards = [stack.new_card() for _ in range(SUBSCRIBERS * 2)]
            accounts = [
                stack.new_account(card["i_sim_card"], firstname="v0")
                for card in cards[:SUBSCRIBERS]
            ]
            with closing(sqlite3.connect(stack.state / "sims.db", timeout=20)) as database:
                database.executescript(WATCH)
            by_number = {card["i_sim_card"]: card["imsi"] for card in cards}
            load = Subscribers(stack, accounts, by_number, random.Random(SEED + 1))
            crm.answer = takes_its_time(random.Random(SEED + 2))
            yield Place(stack, crm, mail, load, chance)


def test_twenty_kills_under_load(place: Place) -> None:
    print(f"\nNSPS_KILL_SEED={SEED} NSPS_KILLS={KILLS}")
    with place.load:
        for _ in range(KILLS):
            time.sleep(place.chance.uniform(0.2, 2.0))
            place.kill_something()
        time.sleep(1)
    changed = time.time()
    place.settle()
    run = place.evidence()
    print(report(place, run, time.time() - changed))
    found = violations(run)
    assert not found, "\n".join(f"{each.rule}: {each.what}" for each in found)
    states = place.stack.get("/sandbox/events?limit=1")["counts"]
    assert set(states) == {"done"}, states


def report(place: Place, run: Run, settled_after: float) -> str:
    killed = Counter(kill.what for kill in run.kills)
    down = sum(kill.ended - kill.began for kill in run.kills)
    (mail,) = run.messages
    twice = len(mail.received) - len({each.event_id for each in mail.received})
    writes = ", ".join(f"{len(system.writes)} by {system.name}" for system in run.states)
    return (
        f"killed: {dict(killed)}, {down:.0f} s to be back in all\n"
        f"changed: {dict(place.load.changes)}; acknowledged: {len(run.acknowledged)} webhooks\n"
        f"seen: {writes}, {len(mail.received)} messages ({twice} twice), "
        f"{len(run.posted)} statuses\n"
        f"settled {settled_after:.1f} s after the last change"
    )
