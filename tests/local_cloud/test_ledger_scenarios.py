"""The model's scenarios on the real ledger, over the embedded Firestore with the real client.

Random schedules, by seeds: NSPS_LEDGER_SEEDS says how many for each scenario (default few, for
every run; thousands for a long one).
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import provisioning_model as model
import pytest
from nsps.cloud.store import Store
from nsps.connector.base import Call, Enriched
from nsps.delivery.ledger import ledger, protocol
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import Ledger, Work
from nsps.delivery.ledger.protocol import Step
from nsps.delivery.pipeline import Calls, Desired, Performed, Pipeline
from nsps.domain.outcome import NoAnswer
from nsps.espf.poster import Poster
from nsps_local.firestore import FirestoreServer
from nsps_testing.standard import OpenGate, enriched

from tests.local_cloud.firestore_kit import new_store, post
from tests.local_cloud.ledger_kit import (
    Broken,
    Clock,
    Played,
    System,
    scenario,
    snapshot_time,
    work_of,
)
from tests.unit.ledger.test_protocol_is_the_model import MUTANTS

SEEDS = int(os.environ.get("NSPS_LEDGER_SEEDS", "4"))
FIRST = int(os.environ.get("NSPS_LEDGER_FIRST_SEED", "1"))
NAMES = [each.name for each in model.SCENARIOS]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirestoreServer]:
    state: Path = tmp_path_factory.mktemp("firestore")
    with FirestoreServer(state) as running:
        yield running


@pytest.fixture(scope="module")
def store(server: FirestoreServer) -> Store:
    return new_store(server.target)


@pytest.fixture
def clock(server: FirestoreServer) -> Clock:
    return Clock(server.control_url)


@pytest.mark.timeout(60 + 10 * SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_random_schedules_of_a_scenario(name: str, store: Store, clock: Clock) -> None:
    one = scenario(name)
    worlds = model.worlds(one, model.Rules())
    for seed in range(FIRST, FIRST + SEEDS):
        world = random.Random(f"{name}/{seed}").choice(worlds)
        Played(store, clock, one, world, f"{name}/{seed}").run()


class Shaken:
    """Firestore that now and then misbehaves, around one step of an attempt."""

    def __init__(self, control_url: str, dice: random.Random) -> None:
        self._url, self._dice, self._left = f"{control_url}/faults", dice, 8

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        fault = self._dice.choice([*FAULTS, *[None] * 4])
        if fault is None or not self._left:
            yield
            return
        self._left -= 1
        post(self._url, {**fault, "seed": self._dice.random()})
        try:
            yield
        finally:
            post(self._url, {})


FAULTS = [
    {"lost_percent": 100},  # written, but the answer is lost
    {"lost_percent": 50, "abort_percent": 50},
    {"abort_percent": 60},
    {"unavailable_percent": 30},
]


@pytest.mark.timeout(60 + 10 * SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_while_firestore_misbehaves(
    name: str, store: Store, clock: Clock, server: FirestoreServer
) -> None:
    """Commits are aborted, or applied without an answer, at any transaction."""
    one = scenario(name)
    worlds = model.worlds(one, model.Rules())
    for seed in range(FIRST, FIRST + max(1, SEEDS // 2)):
        dice = random.Random(f"{name}/faults/{seed}")
        played = Played(store, clock, one, dice.choice(worlds), f"{name}/faults/{seed}")
        played.shaken = Shaken(server.control_url, dice)
        played.run()


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("intent", "assign, release"),
        ("dirty", "block, unblock"),
        ("lease", "block, unblock"),
        ("foreign", "refusal: move A to Y"),
    ],
)
def test_a_rule_left_out_of_the_protocol_breaks_a_promise(
    rule: str, name: str, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These schedules would notice: the protocol without a rule is found out."""
    function, mutant = MUTANTS[rule]
    monkeypatch.setattr(protocol, function, mutant)
    one = scenario(name)
    worlds = model.worlds(one, model.Rules())
    with pytest.raises(Broken):
        for seed in range(150):
            world = random.Random(f"{name}/{seed}").choice(worlds)
            Played(store, clock, one, world, f"{name}/{seed}").run()


# --- real threads ---------------------------------------------------------------------------------

THREADS = 16
CALL = 0.5
"""C of the time-outs here: the calls below take milliseconds."""


class Slow(Calls):
    """The external system as a connector's calls reach it: slow, and now and then silent."""

    def __init__(self, system: System, numbers: dict[str, int], faults: int, seed: str) -> None:
        self._system, self._numbers, self._faults = system, numbers, faults
        self._dice, self._lock = random.Random(seed), threading.Lock()
        self.broken: list[str] = []
        self.longest = 0.0

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        value = model.ABSENT if step.wanted is None else step.wanted
        began = time.monotonic()
        with self._lock:
            pause = self._dice.uniform(0.002, 0.02)
            fault = self._faults > 0 and self._dice.random() < 0.25
            self._faults -= fault
            effect = not fault or self._dice.random() < 0.5
            self._checked(lambda: self._system.begin(step.key, threading.get_ident()))
        time.sleep(pause)  # the call on its way
        with self._lock:
            t = self._numbers[work.t]
            if effect:
                self._checked(lambda: self._system.write(step.key, value, work.owner.id, t))
            self._system.end(step.key)
            self.longest = max(self.longest, time.monotonic() - began)
        if fault:
            raise NoAnswer("the connection was lost")
        return Performed(True, {})

    def _checked(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Broken as error:
            self.broken.append(str(error))


class _NoStatusApi:
    def post(self, i_account: int, group: str, status: str, message: str) -> None:
        """ESPF takes everything."""


@pytest.mark.timeout(60 + 20 * SEEDS)
@pytest.mark.parametrize(
    "name",
    [
        "move and move back",
        "X and Y exchange SIMs",
        "block, unblock, block",
        "swap A for B, A to Y",
    ],
)
def test_sixteen_threads_at_once(
    name: str, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every message several times, handled at once by the attempts of real threads."""
    monkeypatch.setattr(ledger, "MARGIN_SECONDS", 0.3)
    monkeypatch.setattr(ledger, "TRANSACTION_SECONDS", 0.7)
    one = scenario(name)
    worlds = model.worlds(one, model.Rules())
    for seed in range(FIRST, FIRST + max(1, SEEDS // 4)):
        dice = random.Random(f"{name}/threads/{seed}")
        played = Played(store, clock, one, dice.choice(worlds), "")
        numbers = {str(snapshot_time(job.t)): job.t for job in played.world.jobs}
        slow = Slow(played.system, numbers, one.faults, f"{name}/{seed}")
        real, poster = Ledger(store), Poster(store, _NoStatusApi)
        messages = [job for job in played.world.jobs for _ in range(4)]
        dice.shuffle(messages)
        with ThreadPoolExecutor(THREADS) as threads:
            for ended in [
                threads.submit(
                    _until_acknowledged,
                    Pipeline(
                        _OneJob(job, played.handler, slow),
                        real,
                        poster,
                        OpenGate(),
                        str,
                        patience=0.5,
                    ),
                )
                for job in messages
            ]:
                ended.result()
        assert slow.longest < CALL, (
            "the machine stood still: the time-outs' assumption did not hold"
        )
        assert not slow.broken, slow.broken
        played.judge()


@dataclass(frozen=True)
class _OneJob:
    """What a connector would say of the event of one of the model's jobs."""

    job: Any
    handler: str
    calls: Calls

    def work(self, event: Enriched) -> Work:
        return replace(work_of(self.job, self.handler), call_seconds=CALL)

    def desired(self, event: Enriched, work: Work) -> Desired:
        return Desired(work, self.calls)


def _until_acknowledged(pipeline: Pipeline) -> None:
    """One message, as Pub/Sub brings it: again until it is acknowledged."""
    event = enriched(None)
    for _ in range(200):
        if pipeline.deliver(event).ack:
            return
    raise Broken("the message is never acknowledged")
