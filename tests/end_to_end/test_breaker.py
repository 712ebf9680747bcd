"""A system that is down, and one that is paused: nothing is lost, no attempts are used up, and no
other system is delayed. What was measured is printed (pytest -s) and in the assertions.

The outage is a short one, at a rate that is not scaled; NSPS_OUTAGE_SECONDS and NSPS_OUTAGE_RATE
make it longer. Where nothing would happen but waiting, Firestore's clock is moved: until the next
probe, and through the slow start once that has been seen to be slow. The hour at 50 events a second
is in tests/unit/test_outage.py, in simulated time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps.cloud.subscriptions import Subscriptions
from nsps.delivery.gate import CACHE_SECONDS
from nsps.delivery.switch import (
    RISING_SECONDS,
    SAVED_SECONDS,
    STEP_SECONDS,
    State,
    Switch,
    Switches,
)
from nsps.domain.outcome import Outcome
from nsps.runtime.settings import HandlerLocation
from nsps_testing.waiting import wait_for

from tests.end_to_end import processes
from tests.end_to_end.recorder import Received, Recorder
from tests.end_to_end.whole_stack import ROOT, WholeStack, configuration, webhook
from tests.unit.outage import most_within

pytestmark = pytest.mark.timeout(600)

SECONDS = float(os.environ.get("NSPS_OUTAGE_SECONDS", "8"))
RATE = float(os.environ.get("NSPS_OUTAGE_RATE", "20"))
ALLOWED = 25.0
"""Calls a second that the system bears (max_rate)."""
SLOW_SECONDS = 6.0
"""How much of the slow start is seen as it is: within its first step."""
_numbers = count(500_001)


@dataclass
class System:
    """An external system that can be down, and notes when it took which event."""

    recorder: Recorder
    down: bool = False
    took: dict[str, list[float]] = field(default_factory=dict)
    calls: int = 0
    hangs: bool = False
    """The next call is not answered until ``released``."""
    released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.recorder.answer = self.answer
        self.recorder.health = lambda: 503 if self.down else 200

    def answer(self, received: Received) -> int:
        with self._lock:
            self.calls += 1
            if self.down:
                return 503
            hangs, self.hangs = self.hangs, False
        if hangs:
            self.released.wait(50)
        with self._lock:
            self.took.setdefault(received.event_id, []).append(time.time())
        return 200

    def moments(self) -> list[float]:
        with self._lock:
            return sorted(moment for moments in self.took.values() for moment in moments)


@dataclass
class Site:
    stack: WholeStack
    ill: System
    healthy: System
    accounts: list[int]

    def switch(self, handler: str = "ill") -> Switch:
        return Switches(self.stack.running.store).read(handler)

    def location(self, handler: str = "ill") -> HandlerLocation:
        functions = processes.environment(self.stack.pid("retries"))["NSPS_FUNCTIONS"]
        return HandlerLocation(**json.loads(functions)[handler])

    def subscriptions(self) -> Subscriptions:
        os.environ["PUBSUB_EMULATOR_HOST"] = self.stack.description["pubsub"]["host"]
        push = json.loads(processes.environment(self.stack.pid("retries"))["NSPS_PUSH"])
        return Subscriptions(push["service_account"])

    def send(self) -> tuple[str, float]:
        """An event about one of the accounts in turn: its id, and when it was accepted."""
        number = next(_numbers)
        i_account = self.accounts[number % len(self.accounts)]
        answer = self.stack.send("SIM/Updated", i_account=i_account, i_event=number)
        assert answer.status_code == 200
        return answer.json()["event_id"], time.time()

    def send_for(self, seconds: float) -> dict[str, float]:
        """Events at the rate of the test, evenly."""
        sent: dict[str, float] = {}
        begun = time.monotonic()
        for number in count():
            due = number / RATE
            if due >= seconds:
                return sent
            time.sleep(max(0.0, begun + due - time.monotonic()))
            event_id, at = self.send()
            sent[event_id] = at
        raise AssertionError

    def latencies(self, sent: dict[str, float], system: System) -> list[float]:
        """Seconds from ESPF's 200 to the system, sorted."""
        took = system.took
        return sorted(took[event_id][0] - at for event_id, at in sent.items() if event_id in took)

    def deliveries(self, sent: dict[str, float], handler: str = "ill") -> dict[str, dict[str, Any]]:
        """What the history says of the events for the handler."""
        store = self.stack.running.store
        found = store.client.get_all([store.delivery(handler, event_id) for event_id in sent])
        return {each.id: each.to_dict() or {} for each in found}

    def snapshots(self, sent: Iterable[str]) -> dict[str, str]:
        """When what each event was enriched with was read: sorts as text."""
        store = self.stack.running.store
        found = store.client.get_all([store.event(event_id) for event_id in sent])
        return {each.id: (each.to_dict() or {})["t"] for each in found}

    def older_after_newer(self, arrived: list[str], done: dict[str, dict[str, Any]]) -> int:
        """How often an account's older state came after a newer one; the newest must be there."""
        older = 0
        read = self.snapshots(done)
        for i_account in self.accounts:
            mine = {ident for ident, each in done.items() if each["i_account"] == i_account}
            snapshots = [read[ident] for ident in arrived if ident in mine]
            older += sum(later < sooner for sooner, later in pairwise(snapshots))
            assert snapshots[-1] == max(read[ident] for ident in mine)
        return older

    def all_final(self, sent: dict[str, float]) -> bool:
        """Whether everything is finished; back-offs are cut short."""
        self.stack.hurry()
        outcomes = [each.get("outcome") for each in self.deliveries(sent).values()]
        return all(outcome and Outcome(outcome).final for outcome in outcomes)

    def nsps(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "nsps_local.cli", *arguments]
        command += ["--state", str(self.stack.state)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logged(self, handler: str = "ill") -> list[dict[str, Any]]:
        lines = self.stack.logs()[handler].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("breaker")
    with Recorder() as one, Recorder() as other:
        handlers = [
            webhook(one.url, "ill", group=None, max_rate=ALLOWED, call_timeout_seconds=60),
            webhook(other.url, "healthy", group=None),
        ]
        with WholeStack(folder / "state", configuration(folder, handlers)) as stack:
            accounts = [stack.new_account() for _ in range(12)]
            yield Site(stack, System(one), System(other), accounts)


def spread(latencies: list[float]) -> str:
    half, most = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    return f"median {half * 1000:.0f} ms, 99th {most * 1000:.0f} ms"


def test_a_system_that_is_down_loses_nothing_and_delays_nobody(site: Site) -> None:
    site.send_for(1)  # instances warm up
    before = site.send_for(4)
    wait_for(lambda: site.all_final(before), 60, "the usual")
    sent = outage(site, before)
    well_at = time.time()
    came_back(site, well_at)
    wait_for(lambda: site.all_final(sent), 60 + len(sent) / ALLOWED * 3, "everything to be done")
    wait_for(lambda: site.switch().breaker.state is State.CLOSED, 30, "the breaker to close")
    after = site.send_for(1)
    wait_for(lambda: site.all_final(after), 30)
    check(site, before, sent, well_at)


def outage(site: Site, before: dict[str, float]) -> dict[str, float]:
    """The system is down while events go on to come; they are returned once it is well again."""
    site.ill.down = True
    went_down = time.time()
    sent: dict[str, float] = {}
    sender = threading.Thread(target=lambda: sent.update(site.send_for(SECONDS)))
    sender.start()
    wait_for(lambda: site.switch().off, 30, "the breaker to open")
    opened_after = time.time() - went_down
    until_pushes_are_stopped(site)
    calls = site.ill.calls
    print(f"\nbreaker open after {opened_after:.1f} s and {calls - len(before)} calls")
    sender.join()
    wait_for(
        lambda: all(d.get("outcome") for d in site.deliveries(sent, "healthy").values()),
        60,
        "the healthy system to have all",
    )
    assert site.ill.calls == calls, "an open breaker calls nothing"
    pushed = len(site.logged())
    time.sleep(2)
    assert len(site.logged()) == pushed, "Pub/Sub pushes nothing"
    assert not site.switch("healthy").off

    probes = site.switch().breaker.probes
    site.stack.advance("firestore", 700)  # the probe's time comes
    site.stack.tick()
    asked = site.switch().breaker
    assert asked.state is State.OPEN and asked.probes > probes
    assert "/health answered 503" in asked.reason

    site.ill.down = False
    site.stack.advance("firestore", 700)
    site.stack.tick()
    assert site.switch().breaker.state is State.HALF_OPEN
    assert not site.subscriptions().is_off(site.location())
    return sent


def until_pushes_are_stopped(site: Site) -> None:
    """Probes in vain, until none is due before the next tick."""

    def stopped() -> bool:
        site.stack.advance("firestore", 50)
        site.stack.tick()
        return site.subscriptions().is_off(site.location())

    wait_for(stopped, 30, "the endpoint to be taken off")
    assert site.switch().endpoint_off


def came_back(site: Site, well_at: float) -> None:
    """The slow start, at first as it is, then at ten times its pace.

    The handler's calls may take so long that no lease ends when the clock is moved.
    """

    def called() -> bool:
        site.stack.hurry()  # what was given back before pushes were stopped
        return any(moment > well_at for moment in site.ill.moments())

    wait_for(called, 30, "a first call")
    time.sleep(SLOW_SECONDS)
    drained = [moment for moment in site.ill.moments() if moment > well_at]
    allowed = 1 + SAVED_SECONDS + SLOW_SECONDS
    assert len(drained) <= allowed, "it comes back slowly: one a second at first"
    while (breaker := site.switch().breaker).state is State.HALF_OPEN:
        assert breaker.changed_at is not None and time.time() - well_at < 60
        site.stack.advance("firestore", STEP_SECONDS)
        site.stack.hurry()
        time.sleep(1)


def check(site: Site, before: dict[str, float], sent: dict[str, float], well_at: float) -> None:
    """What was measured, as a table; and what must hold of it."""
    drained = [moment for moment in site.ill.moments() if moment > well_at]
    done = site.deliveries(sent)
    became = Counter(each["outcome"] for each in done.values())
    took = site.ill.took
    arrived = sorted(took.keys() & sent, key=lambda event_id: took[event_id][0])
    turned = sum(sent[later] < sent[sooner] for sooner, later in pairwise(arrived))
    older = site.older_after_newer(arrived, done)
    attempts = Counter(
        line["delivery_attempt"]
        for line in site.logged()
        if line.get("event_id") in sent and line["message"] in became
    )
    usual, during = site.latencies(before, site.healthy), site.latencies(sent, site.healthy)
    highest = most_within(drained, 5) / 5
    for name, value in (
        ("outage", f"{SECONDS:g} s at {RATE:g} events/s: {len(sent)} events"),
        ("delivered", became["delivered"]),
        ("superseded", became["superseded"]),
        ("an older state after a newer one", older),
        ("neighbours in another order than sent", turned),
        ("drained in", f"{max(drained) - min(drained):.1f} s"),
        ("highest rate in any 5 s", f"{highest:.1f}/s of {ALLOWED:g}/s allowed"),
        ("attempts when delivered", dict(sorted(attempts.items()))),
        ("healthy handler before", spread(usual)),
        ("healthy handler during", spread(during)),
        ("dead handler before", spread(site.latencies(before, site.ill))),
        ("dead handler during", spread(site.latencies(sent, site.ill))),
    ):
        print(f"| {name} | {value} |")
    assert set(became) == {"delivered", "superseded"}
    assert {ident for ident, each in done.items() if each["outcome"] == "delivered"} == set(arrived)
    assert all(len(moments) == 1 for moments in took.values()), "each event once"
    assert older == 0
    assert highest <= ALLOWED * 1.1 + 0.2
    assert most_within(drained, 1) <= ALLOWED * 1.5 + 1, "a call may be under way for long"
    assert max(attempts) <= 8, attempts
    assert during[len(during) // 2] < 3 * usual[len(usual) // 2] + 0.2


def test_after_a_short_outage_the_system_is_asked_after_five_seconds(site: Site) -> None:
    """By the attempts that wait, whenever the tick comes; nothing is given back meanwhile."""
    site.ill.down = True
    went_down = time.time()
    sent: dict[str, float] = {}
    while not site.switch().off:
        event_id, at = site.send()
        sent[event_id] = at
    time.sleep(max(0.0, went_down + 5 - time.time()))
    site.ill.down = False
    well_at = time.time()
    event_id, sent[event_id] = site.send()
    wait_for(lambda: any(moment > well_at for moment in site.ill.moments()), 30, "a call")
    first = next(moment for moment in site.ill.moments() if moment > well_at)
    print(f"\n{first - well_at:.1f} s after the end of the outage")
    assert first - well_at < 20, "one probe in vain at the most: 5 s, then 10 s"
    while site.switch().breaker.state is State.HALF_OPEN:
        site.stack.advance("firestore", STEP_SECONDS)
        site.stack.hurry()
        time.sleep(0.5)
    wait_for(lambda: site.all_final(sent), 60, "what waited to be delivered")


def test_one_call_that_hangs_holds_up_no_other_event(site: Site) -> None:
    """Not even after failures of one account, which do not open the breaker."""
    site.ill.down = True
    failed = {}
    for _ in range(25):
        number = next(_numbers)
        answer = site.stack.send("SIM/Updated", i_account=site.accounts[0], i_event=number)
        failed[answer.json()["event_id"]] = time.time()

    def tried() -> bool:
        found = site.deliveries(failed).values()
        return all(each.get("retry") or each.get("outcome") for each in found)

    wait_for(tried, 30, "each to have failed, or to be superseded")
    assert site.switch().breaker.state is State.CLOSED
    site.ill.down, site.ill.hangs = False, True
    calls = site.ill.calls
    hanging, hangs_since = site.send()
    wait_for(lambda: site.ill.calls > calls, 10, "the call that hangs")
    others = dict(site.send() for _ in range(11))
    wait_for(lambda: others.keys() <= site.ill.took.keys(), 40, "the others' calls")
    assert hanging not in site.ill.took
    site.ill.released.set()
    wait_for(lambda: site.all_final({hanging: hangs_since, **failed, **others}), 60)


def test_a_pause_stops_pushes_at_once_and_a_resume_lets_them_go_on_at_once(site: Site) -> None:
    site.nsps("pause", "ill", "--reason", "new release")
    assert site.subscriptions().is_off(site.location())
    event_id, _ = site.send()
    wait_for(lambda: event_id in site.healthy.took, 30)
    resumed_at = time.time()
    site.nsps("resume", "ill")
    wait_for(lambda: event_id in site.ill.took, 20, "the first call")
    took = site.ill.took[event_id][0] - resumed_at
    print(f"\nfirst call {took:.1f} s after `nsps resume` was started")
    assert took < 15


def test_a_breaker_closes_although_no_event_comes(site: Site) -> None:
    Switches(site.stack.running.store).open("ill", 20, "HTTP 503")
    site.stack.advance("firestore", 40)
    site.stack.tick()
    assert site.switch().breaker.state is State.HALF_OPEN
    site.stack.tick()
    assert site.switch().breaker.state is State.HALF_OPEN, "slowly"
    site.stack.advance("firestore", RISING_SECONDS)
    site.stack.tick()
    assert site.switch().breaker.state is State.CLOSED
    assert not site.subscriptions().is_off(site.location())


def test_a_deployment_does_not_end_a_pause(site: Site) -> None:
    output = site.nsps("pause", "ill", "--reason", "new release")
    assert "ill is paused" in output and "keeps what waits for it until" in output
    assert "paused" in site.nsps("handlers")
    ticked = site.stack.tick()
    assert "operator@localhost" in ticked["off"]["ill"]
    subscriptions, location = site.subscriptions(), site.location()
    assert subscriptions.is_off(location)
    url = location.url + "/health"
    assert requests.get(url, timeout=10).status_code == 200
    assert requests.get(f"{url}?deep=1", timeout=10).status_code == 401, "not for anybody"
    time.sleep(CACHE_SECONDS)  # so old may the switch be that an instance goes by
    calls, refused = site.ill.calls, len(site.logged())
    event_id, _ = site.send()
    wait_for(lambda: event_id in site.healthy.took, 30)

    subscriptions.turn(location, off=False)  # as a deployment does
    wait_for(  # among what was delivered before the pause and is logged late
        lambda: any("paused by" in entry.get("reason", "") for entry in site.logged()[refused:]),
        30,
        "the push to be refused",
    )
    site.stack.tick()
    assert subscriptions.is_off(location), "the next tick takes it off again"
    assert site.ill.calls == calls and event_id not in site.ill.took

    site.nsps("resume", "ill", "--reason", "done")
    site.stack.tick()
    assert not subscriptions.is_off(location)

    wait_for(lambda: site.all_final({event_id: 0.0}), 60, "what waited to be delivered")
    assert event_id in site.ill.took
    audit = site.stack.running.store.client.collection("audit").stream()
    done = sorted((e["at"], e["who"], e["action"]) for e in (d.to_dict() or {} for d in audit))
    assert [each[1:] for each in done[-2:]] == [
        ("operator@localhost", "pause"),
        ("operator@localhost", "resume"),
    ]


def test_a_tick_that_finds_pubsub_away_is_made_up_for(site: Site) -> None:
    site.nsps("pause", "ill", "--reason", "again")
    site.stack.stop_part("pubsub")
    try:
        site.stack.tick()
    finally:
        site.stack.continue_part("pubsub")
    site.stack.tick()
    assert site.subscriptions().is_off(site.location())
    site.nsps("resume", "ill")
    site.stack.tick()
    assert not site.subscriptions().is_off(site.location())
