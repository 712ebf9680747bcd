"""An outage of one hour, with everything that came meanwhile delivered after it: in simulated time,
so that nothing is shortened. See outage.py for what is real in it.

NSPS_OUTAGE_RATE: events a second; 50 are 180 000 in the hour. CI takes a tenth of it: then the
counts are a tenth, and no time is another.
"""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import pytest
from nsps.delivery import switch
from nsps.delivery.gate import Gate
from nsps.delivery.ledger.protocol import Step
from nsps.domain.outcome import Outcome

from tests.unit.outage import Event, Outage, most_within

RATE = float(os.environ.get("NSPS_OUTAGE_RATE", "5"))
ALLOWED = 4 * RATE
BEGINS, ENDS = 600.0, 600.0 + 3600.0

pytestmark = pytest.mark.timeout(900)


def test_an_hour_of_outage_is_made_up_for() -> None:
    random.seed(4711)
    outage = Outage(RATE, ALLOWED, BEGINS, ENDS, owners=round(1200 * RATE))
    outage.run(lambda: outage.time.now >= ENDS, ENDS + 1)
    waited = outage.waits
    assert outage.opened_at is not None
    calls_while_down = sum(BEGINS <= moment < ENDS for moment in outage.calls)
    outage.run(lambda: outage.waits < RATE and outage.closed_at is not None, ENDS + 7200)
    back = next(moment for moment, _ in outage.written if moment > ENDS)
    drained = outage.time.now - back
    turned, older = order(outage.written)
    highest = most_within([moment for moment in outage.calls if moment > ENDS], 5) / 5
    rows = [
        ("events waiting when it ended", f"{waited:,} of {RATE * 3600:,.0f}"),
        ("breaker open after", f"{outage.opened_at - BEGINS:.1f} s"),
        ("calls while it was down", f"{calls_while_down}"),
        ("first call after the end", f"{back - ENDS:.0f} s"),
        ("delivered", f"{outage.outcomes[Outcome.DELIVERED]:,}"),
        ("superseded", f"{outage.outcomes[Outcome.SUPERSEDED]:,}"),
        ("an older state after a newer one", f"{older}"),
        ("neighbours in another order than sent", f"{turned:,}"),
        ("drained in", f"{drained:.0f} s, new events going on at {RATE:g}/s"),
        ("highest rate in any 5 s", f"{highest:.1f}/s of {ALLOWED:g}/s allowed"),
        ("most attempts of one event", f"{max(outage.attempts)}"),
    ]
    print()
    for name, value in rows:
        print(f"| {name} | {value} |")
    assert set(outage.outcomes) == {Outcome.DELIVERED, Outcome.SUPERSEDED}
    assert sum(outage.outcomes.values()) + outage.waits >= len(outage.events) - ALLOWED
    assert older == 0
    assert highest <= ALLOWED * 1.02 + 0.2
    called = sum(moment > ENDS for moment in outage.calls)
    assert drained <= called / ALLOWED + 120, "a turn for each call alone, and the slow start"
    assert max(outage.attempts) <= 12


@pytest.mark.parametrize("seconds", [5.0, 30.0])
@pytest.mark.parametrize("begins", [601.0, 625.0, 659.0])
def test_a_short_outage_is_over_soon_after_its_end(seconds: float, begins: float) -> None:
    """Wherever the minute's tick falls: those who wait ask the system how it is."""
    random.seed(4711)
    ends = begins + seconds
    outage = Outage(20, 80, begins, ends, owners=100)
    outage.run(lambda: bool(outage.written) and outage.written[-1][0] > ends, ends + 600)
    assert outage.opened_at is not None and outage.opened_at < ends
    assert outage.time.now - ends <= max(6.0, 1.1 * seconds)
    outage.run(lambda: outage.waits < 20, ends + 600)
    assert max(outage.attempts) <= 6


@dataclass
class ComesBackCold(Outage):
    """Back, the system bears a tenth of its calls at first, and more and more for a minute;
    whatever goes beyond is answered 503. After that it is warm, and bears what it is sent."""

    refused: int = 0
    _first: float | None = None
    _borne: deque[float] = field(default_factory=deque)
    _beyond: bool = False

    def _call(self, gate: Gate, event: Event, step: Step, token: str) -> Outcome | None:
        while self._borne and self._borne[0] <= self.time.now - 1:
            self._borne.popleft()
        self._beyond = len(self._borne) >= self._bears()
        if self._beyond:
            self.refused += 1
        else:
            self._borne.append(self.time.now)
        return super()._call(gate, event, step, token)

    def _bears(self) -> float:
        if self.time.now < self.up_at:
            return self.max_rate
        self._first = self.time.now if self._first is None else self._first
        warm = (self.time.now - self._first) / 60
        return self.max_rate * (0.1 + 0.9 * warm) if warm < 1 else float("inf")

    @property
    def down(self) -> bool:
        return super().down or self._beyond


def test_the_slow_start_spares_a_system_that_comes_back_cold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> int:
        random.seed(4711)
        outage = ComesBackCold(10, 40, 60, 300, owners=1200)
        outage.run(lambda: outage.time.now >= 300, 301)
        before = outage.refused
        outage.run(lambda: outage.waits <= 5, 900)
        return outage.refused - before

    assert refused() == 0
    real = switch.answered

    def at_once(breaker: switch.Breaker, reason: str | None, now: datetime) -> switch.Breaker:
        after = real(breaker, reason, now)
        return after if reason else switch.closed(after, now)

    monkeypatch.setattr(switch, "answered", at_once)
    assert refused() > 100


def order(written: list[tuple[float, Event]]) -> tuple[int, int]:
    """Writes in another order than sent; and those of an older state after a newer one."""
    turned = sum(later.sent_at < sooner.sent_at for (_, sooner), (_, later) in pairwise(written))
    newest: dict[str, str] = {}
    older = 0
    for _, event in written:
        older += event.t < newest.get(event.owner, "")
        newest[event.owner] = max(event.t, newest.get(event.owner, ""))
    return turned, older
