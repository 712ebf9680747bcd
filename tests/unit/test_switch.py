"""The switch: what a pause and a breaker say, alone and in Firestore; the gate in an instance."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nsps.cloud.store import Store, StoreUnavailable
from nsps.delivery import switch
from nsps.delivery.gate import PATIENCE_SECONDS, Gate
from nsps.delivery.switch import (
    FREE_RATE,
    SAVED_SECONDS,
    Breaker,
    Pause,
    ProbeGaps,
    State,
    Streak,
    Switch,
    Switches,
    SwitchRefused,
    probe_due,
    probing,
)
from nsps.runtime.settings import BreakerRule, HandlerSettings

from tests.unit.outage import Documents, VirtualTime

T0 = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
OPEN = switch.opened(Breaker(), 20, "HTTP 503", T0)
COMING = switch.answered(OPEN, None, T0)
PAUSED = Switch(pause=Pause("ops@acme.example", T0, "new release"))


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


# ---- when it opens --------------------------------------------------------------------------


def streak(owners: list[str], every: float = 0.1) -> tuple[Streak, float]:
    found, now = Streak(), 0.0
    for number, owner in enumerate(owners):
        now = number * every
        found = found.failed(owner, now, None)
    return found, now


def test_twenty_failures_in_a_row_open_it() -> None:
    for count, opens in ((19, False), (20, True)):
        found, now = streak([f"account:{n % 5}" for n in range(count)])
        assert found.opens(now, 20, 60, 3) is opens


def test_a_minute_of_failures_opens_it() -> None:
    for every, opens in ((19.0, False), (21.0, True)):
        found, now = streak(["account:1", "account:2", "account:3", "account:1"], every)
        assert found.opens(now, 20, 60, 3) is opens


def test_one_event_that_can_never_work_is_no_reason() -> None:
    found, now = streak(["account:1"] * 500, 60)
    assert not found.opens(now, 20, 60, 3) and not found.opens_again()
    assert found.failed("account:2", now, None).opens_again()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 30), st.booleans()), max_size=80))
def test_it_opens_exactly_by_its_rule(history: list[tuple[int, float, bool]]) -> None:
    found, now = Streak(), 0.0
    since_success: list[tuple[int, float]] = []
    for owner, gap, well in history:
        now += gap
        found = Streak() if well else found.failed(f"account:{owner}", now, None)
        since_success = [] if well else [*since_success, (owner, now)]
        owners = {each for each, _ in since_success}
        often = len(since_success) >= 20
        long = bool(since_success) and now - since_success[0][1] >= 60
        assert found.opens(now, 20, 60, 3) is ((often or long) and len(owners) >= 3)


# ---- probes and coming back ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (None, [5, 10, 20, 40, 80, 160, 320, 600, 600]),
        (ProbeGaps(30, 60), [30, 60, 60, 60, 60, 60, 60, 60, 60]),
    ],
)
def test_probes_come_after_5_seconds_doubling_to_10_minutes(
    own: ProbeGaps | None, wanted: list[int]
) -> None:
    breaker, now, gaps = switch.opened(Breaker(), 20, "HTTP 503", T0, gaps=own), T0, []
    for _ in wanted:
        assert breaker.next_probe is not None
        gaps.append((breaker.next_probe - now).total_seconds())
        now = breaker.next_probe
        assert switch.probe_due(Switch(breaker=breaker), now)
        assert not switch.probe_due(Switch(breaker=breaker), now - timedelta(seconds=1))
        breaker = switch.answered(switch.probing(breaker, now), "still down", now)
    assert gaps == wanted
    assert (breaker.reason, breaker.probes) == ("still down", len(wanted))
    assert Switch.read(Switch(breaker=breaker).write()).breaker == breaker


def test_pushes_are_stopped_only_while_no_probe_is_due_before_the_next_tick() -> None:
    def off(breaker: Breaker, seconds: float, *, before: bool = False) -> bool:
        return Switch(breaker=breaker, endpoint_off=before).stops_pushes(at(seconds))

    assert not off(OPEN, 0)
    assert off(replace(OPEN, next_probe=at(61)), 0)
    assert off(replace(OPEN, next_probe=at(61)), 50, before=True), "once stopped, until it is well"
    assert not off(COMING, 0, before=True) and not off(Breaker(), 0, before=True)
    assert PAUSED.stops_pushes(T0)


def test_the_first_probe_waits_for_retry_after_up_to_an_hour() -> None:
    assert switch.opened(Breaker(), 20, "busy", T0, 900).next_probe == at(900)
    assert switch.opened(Breaker(), 20, "busy", T0, 1e9).next_probe == at(3600)
    assert switch.opened(Breaker(), 20, "busy", T0, 1).next_probe == at(5)


def test_failing_while_it_comes_back_makes_the_next_probe_later() -> None:
    asked = switch.answered(switch.probing(OPEN, at(30)), None, at(30))
    again = switch.opened(asked, 2, "HTTP 503", at(40))
    assert (again.state, again.opened_at, again.next_probe) == (State.OPEN, T0, at(50))
    assert switch.opened(OPEN, 99, "later", at(50)) == OPEN


def test_a_paused_system_is_not_even_asked() -> None:
    assert not switch.probe_due(replace(PAUSED, breaker=OPEN), at(10_000))


@pytest.mark.parametrize(("elapsed", "rate"), [(0, 1), (9.9, 1), (10, 2), (20, 4), (60, 64)])
def test_the_pace_doubles_every_ten_seconds(elapsed: float, rate: float) -> None:
    assert switch.pace(elapsed, FREE_RATE) == rate
    assert switch.pace(elapsed, 3) == min(rate, 3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=60),
    st.one_of(st.none(), st.floats(0.5, 200)),
)
def test_instances_together_never_get_more_than_the_pace(
    asks: list[tuple[int, int]], max_rate: float | None
) -> None:
    top = min(max_rate or FREE_RATE, FREE_RATE)
    breaker, now = COMING, 0.0
    got: list[tuple[float, int]] = []
    for eighths, wanted in asks:
        now += eighths / 8  # exact, as the pace has steps
        granted, breaker = switch.grant(breaker, wanted, 0, at(now), max_rate)
        assert 0 <= granted <= wanted
        got.append((now, granted))
    for (start, _), (end, _) in itertools.combinations_with_replacement(got, 2):
        taken = sum(count for moment, count in got if start <= moment <= end)
        room = switch.budget(end, top) - switch.budget(start, top)
        assert taken <= room + 1 + SAVED_SECONDS * switch.pace(start, top) + 1e-6


@settings(deadline=None)
@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0.5, 64))
def test_the_budget_is_the_pace_summed_up(one: float, other: float, top: float) -> None:
    sooner, later = sorted((one, other))
    grown = switch.budget(later, top) - switch.budget(sooner, top)
    slowest, fastest = switch.pace(sooner, top), switch.pace(later, top)
    assert slowest * (later - sooner) - 1e-6 <= grown <= fastest * (later - sooner) + 1e-6


def test_at_the_full_rate_and_with_a_success_it_closes() -> None:
    for seconds, well, state in ((61, 0, "half_open"), (59, 5, "half_open"), (60, 1, "closed")):
        granted, breaker = switch.grant(COMING, 7, well, at(seconds), None)
        assert breaker.state == state and granted > 0
    assert switch.grant(COMING, 7, 1, at(20), 4)[1].state is State.CLOSED
    closed = switch.grant(COMING, 7, 1, at(60), None)[1]
    assert (closed.reason, closed.opened_at, closed.probes) == ("HTTP 503", T0, 0)


def test_it_closes_without_events_when_the_system_is_well_once_more() -> None:
    """As when what waited was delivered before the rate had risen, and nothing more comes."""
    coming = switch.grant(COMING, 5, 5, at(15), None)[1]
    assert coming.state is State.HALF_OPEN
    assert not switch.probe_due(Switch(breaker=coming), at(59))
    assert not switch.probe_due(replace(PAUSED, breaker=coming), at(60))
    assert switch.probe_due(Switch(breaker=coming), at(60))
    asked = switch.probing(coming, at(60))
    assert not switch.probe_due(Switch(breaker=asked), at(60)), "two ticks at once ask once"
    closed = switch.answered(asked, None, at(61))
    assert (closed.state, closed.reason, closed.probes) == (State.CLOSED, "HTTP 503", 0)
    assert switch.answered(closed, None, at(62)) == closed


def test_it_opens_again_without_events_when_the_system_is_not_well() -> None:
    again = switch.answered(switch.probing(COMING, at(60)), "/health answered 503", at(61))
    assert (again.state, again.reason, again.opened_at) == (State.OPEN, "/health answered 503", T0)
    assert again.next_probe == at(61 + 10), "as after one probe in vain"


# ---- how long -------------------------------------------------------------------------------


def test_who_paused_when_and_why_is_told() -> None:
    assert PAUSED.why() == "paused by ops@acme.example since 2026-11-21 02:00 UTC: new release"
    assert switch.kept_until(PAUSED) == T0 + timedelta(days=30)


@pytest.mark.parametrize(("days", "text"), [(23.9, None), (24, "from 2026-12-21"), (30, "is drop")])
def test_pausing_for_too_long_is_warned_of_in_time(days: float, text: str | None) -> None:
    for each in (PAUSED, Switch(breaker=OPEN)):
        said = switch.warning("hss", each, T0 + timedelta(days=days))
        assert (said is None) if text is None else (said is not None and text in said)


breakers = st.sampled_from([Breaker(), OPEN, COMING, switch.probing(OPEN, T0)])
pauses = st.one_of(st.none(), st.just(PAUSED.pause))


@settings(deadline=None)
@given(st.builds(Switch, pauses, breakers, st.booleans()))
def test_what_is_written_is_read_again(each: Switch) -> None:
    assert Switch.read(each.write()) == each
    assert each.off == (each.pause is not None or each.breaker.state is State.OPEN)


def test_a_handler_that_nobody_touched_is_on() -> None:
    assert Switch.read(None) == Switch.read({}) == Switch()
    assert not Switch().off and Switch().why() == ""


# ---- in Firestore ---------------------------------------------------------------------------


def entries(store: Store) -> list[dict[str, Any]]:
    found = [each.to_dict() or {} for each in store.client.collection("audit").stream()]
    return sorted(found, key=lambda entry: entry["at"])


def test_pausing_and_resuming_is_kept_with_who_and_why(store: Store) -> None:
    paused = switch.pause(store, "hss", "ops@acme.example", "new release")
    assert paused.pause is not None and Switches(store).read("hss").pause == paused.pause
    with pytest.raises(SwitchRefused, match=r"paused by ops@acme.example since .*: new release"):
        switch.pause(store, "hss", "other@acme.example", "me too")
    switch.resume(store, "hss", "second@acme.example", "done", role="admin")
    assert not Switches(store).read("hss").off
    audited = [(e["who"], e["role"], e["action"], e["target"], e["reason"]) for e in entries(store)]
    assert audited == [
        ("ops@acme.example", "operator", "pause", "hss", "new release"),
        ("second@acme.example", "admin", "resume", "hss", "done"),
    ]
    assert entries(store)[1]["details"]["paused_by"] == "ops@acme.example"
    with pytest.raises(SwitchRefused, match="hss is not paused"):
        switch.resume(store, "hss", "ops@acme.example", "")
    with pytest.raises(SwitchRefused, match="say why"):
        switch.pause(store, "hss", "ops@acme.example", "  ")


def test_a_breaker_never_undoes_a_pause_nor_a_resume_the_breaker(store: Store) -> None:
    switches = Switches(store)
    switch.pause(store, "hss", "ops", "repair")
    assert switches.open("hss", 20, "HTTP 503").pause is not None
    store.handler("hss").set({"breaker": {"next_probe": T0, "state": "open"}}, merge=True)
    assert not switches.claim_probe("hss")
    assert switches.probed("hss", None).off  # half open, and paused all the same
    switches.open("hss", 20, "HTTP 503 again")
    after = switch.resume(store, "hss", "ops", "")
    assert after.off and after.why() == "its system is down: HTTP 503 again"
    with pytest.raises(SwitchRefused, match="comes back by itself"):
        switch.resume(store, "hss", "ops", "")


def test_two_ticks_at_once_ask_the_system_once(store: Store) -> None:
    switches = Switches(store)
    opened = switches.open("hss", 20, "down")
    assert not switches.claim_probe("hss")
    early = {"breaker": {**opened.write()["breaker"], "next_probe": T0}}
    store.handler("hss").set(early, merge=True)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: switches.claim_probe("hss"), range(8)))
    assert claimed.count(True) == 1


def test_many_instances_open_it_once(store: Store) -> None:
    switches = Switches(store)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda n: switches.open("hss", 20, f"down {n}"), range(8)))
    assert len({each.breaker.opened_at for each in opened}) == 1
    assert not switches.read("other").off


def test_all_switches_are_read_at_once_with_firestores_time(store: Store) -> None:
    switch.pause(store, "b", "ops", "why")
    found, now = Switches(store).read_all(["a", "b"])
    assert (found["a"].off, found["b"].off) == (False, True)
    assert abs((datetime.now(UTC) - now).total_seconds()) < 60


# ---- the gate of an instance -----------------------------------------------------------------


class Clock:
    """Time that passes when somebody sleeps; safe to share between threads."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def day(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.now - 1000)

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


def gate(
    store: Store, clock: Clock, ask: Callable[[], str | None] | None = None, **more: Any
) -> Gate:
    handler = HandlerSettings(name="hss", connector="sample", events=("SIM/*",), **more)
    return Gate(handler, Switches(store), clock=clock, sleep=clock.sleep, ask=ask)


def fail(one: Gate, owners: int, times: int = 20) -> None:
    for number in range(times):
        one.failed(f"account:{number % owners}", "HTTP 503", None)


def test_a_gate_sees_a_pause_within_two_seconds(store: Store) -> None:
    clock = Clock()
    one = gate(store, clock)
    assert one.admit() is None
    switch.pause(store, "hss", "ops", "repair")
    clock.sleep(2)
    held = one.admit()
    assert held is not None and "paused by ops" in held.reason
    switch.resume(store, "hss", "ops", "")
    clock.sleep(2)
    assert one.admit() is None


def test_a_gate_opens_the_breaker_at_once_for_all(store: Store) -> None:
    clock = Clock()
    one, other = gate(store, clock), gate(store, clock)
    assert one.admit() is None
    fail(one, owners=2)
    assert one.admit() is None
    fail(one, owners=3)
    held = one.admit()
    assert held is not None and held.reason == "hss: its system is down: HTTP 503"
    assert other.admit() is not None
    assert Switches(store).read("hss").breaker.failures >= 20


class ByTheTestsClock(Switches):
    """Firestore's clock is the test's: a probe is due when the test's clock says so."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store)
        self._clock = clock

    def claim_probe(self, handler: str) -> bool:
        switch = self.read(handler)
        due = probe_due(switch, self._clock.day())
        if due:
            found = probing(switch.breaker, self._clock.day())
            document = replace(switch, breaker=found).write()
            self._store.handler(handler).set(document, merge=True)
        return due


def test_who_waits_asks_the_system_after_five_seconds_and_goes_on(store: Store) -> None:
    clock, asked = Clock(), list[float]()
    began = clock.day()  # Firestore's own time goes on while time is simulated

    def ask() -> str | None:
        asked.append((clock.day() - began).total_seconds())
        return "still down" if len(asked) == 1 else None

    one = gate(store, clock, ask)
    one._switches = ByTheTestsClock(store, clock)
    fail(one, owners=3)
    assert one.admit() is None
    assert 5 <= asked[0] <= 7 and 9 <= asked[1] - asked[0] <= 12
    assert Switches(store).read("hss").breaker.state is State.HALF_OPEN


def test_who_waits_for_the_probe_does_so_for_twenty_seconds_at_the_most(store: Store) -> None:
    clock = Clock()
    one = gate(store, clock, lambda: "still down")
    fail(one, owners=3)
    held = one.admit()  # Firestore's clock stands still, as good as: no probe comes due
    assert held is not None and held.reason == "hss: its system is down: HTTP 503"
    assert PATIENCE_SECONDS <= clock.now - 1000 < PATIENCE_SECONDS + 1


def test_who_would_wait_too_long_for_the_probe_is_held_at_once(store: Store) -> None:
    clock, asked = Clock(), list[float]()
    one = gate(store, clock, lambda: asked.append(clock.now), breaker=BreakerRule(owners=1))
    for number in range(20):
        one.failed("account:1", "busy", 21.0 if number == 19 else None)
    began = clock.now
    held = one.admit()
    assert held is not None and "its system is down" in held.reason
    assert (clock.now, asked) == (began, [])


def test_while_it_is_paused_nobody_asks(store: Store) -> None:
    clock, asked = Clock(), list[float]()
    one = gate(store, clock, lambda: asked.append(clock.now))
    fail(one, owners=3)
    switch.pause(store, "hss", "ops", "repair")
    clock.sleep(10)
    held = one.admit()
    assert held is not None and "paused by" in held.reason and asked == []


def test_one_instance_asks_for_all(store: Store) -> None:
    clock, asked = Clock(), list[float]()
    gates = [gate(store, clock, lambda: asked.append(clock.now)) for _ in range(4)]
    fail(gates[0], owners=3)
    early = {"breaker": {"next_probe": T0}}
    store.handler("hss").set(early, merge=True)
    clock.sleep(2)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: one.admit(), gates)).count(None) >= 1
    assert len(asked) == 1


def test_a_success_ends_the_row(store: Store) -> None:
    one = gate(store, Clock(), breaker=BreakerRule(failures=3, owners=1))
    for _ in range(5):
        one.failed("account:1", "HTTP 503", None)
        one.failed("account:2", "HTTP 503", None)
        one.well()
    assert one.admit() is None


def test_while_it_comes_back_calls_wait_for_their_turn(store: Store) -> None:
    clock, switches = Clock(), Switches(store)
    one = gate(store, clock)
    switches.open("hss", 20, "down")
    switches.probed("hss", None)
    assert one.admit() is None
    held = one.admit()  # Firestore's clock stands still, as good as: the first was the second's
    while held is None:
        held = one.admit()
    assert "slowly" in held.reason
    assert clock.now >= 1000 + PATIENCE_SECONDS


def test_two_owners_failing_while_it_comes_back_open_it_again(store: Store) -> None:
    clock, switches = Clock(), Switches(store)
    one = gate(store, clock)
    switches.open("hss", 20, "down")
    switches.probed("hss", None)
    assert one.admit() is None
    for _ in range(10):
        one.failed("account:1", "its own fault", None)
    assert switches.read("hss").breaker.state is State.HALF_OPEN
    one.well()
    one.failed("account:2", "HTTP 503", None)
    one.failed("account:3", "HTTP 503", None)
    assert switches.read("hss").breaker.state is State.OPEN


def test_an_instance_keeps_its_rate(store: Store) -> None:
    clock = Clock()
    one = gate(store, clock, instance_rate=4.0)
    started = clock.now
    assert all(one.admit() is None for _ in range(41))
    assert clock.now - started == pytest.approx(10)
    started = clock.now
    for _ in range(41):
        one.turn()
    assert clock.now - started == pytest.approx(10)


def test_without_firestore_the_gate_stays_as_it_was(store: Store) -> None:
    clock = Clock()
    one = gate(store, clock)
    switch.pause(store, "hss", "ops", "repair")
    assert one.admit() is not None

    class Away(Switches):
        def read(self, handler: str) -> Switch:
            raise StoreUnavailable("away")

    one._switches = Away(store)
    clock.sleep(10)
    assert one.admit() is not None


def test_those_who_waited_while_it_came_back_do_not_go_all_at_once() -> None:
    """More threads than the rate: as where a deployment gives the function's size itself."""
    time = VirtualTime()
    documents = Documents(time.clock)
    handler = HandlerSettings(
        name="hss", connector="sample", events=("SIM/*",), max_rate=5, instance_rate=5
    )
    switches = Switches(cast(Store, documents))
    one = Gate(handler, switches, clock=time.monotonic, sleep=time.sleep)
    coming = replace(COMING, changed_at=time.clock(), granted=1e6)  # nobody is let through
    documents.handler("hss").set(Switch(breaker=coming).write(), merge=True)
    went: list[float] = []

    def attempt() -> None:
        assert one.admit() is None
        one.turn()
        went.append(time.now)

    for _ in range(40):
        time.at(0.0, lambda: time.start(attempt))
    time.at(3.0, lambda: documents.handler("hss").set(Switch().write(), merge=True))
    time.run(lambda: len(went) == 40, 60)
    assert went[0] > 3, "it was to wait"
    assert went[39] - went[0] == pytest.approx(39 / 5), "five a second"
