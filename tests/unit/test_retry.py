"""The schedules: what the data says, attempt by attempt."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nsps.domain.outcome import Outcome, worst
from nsps.domain.retry import (
    LAST_TRY_SECONDS,
    LONG_RETRIES,
    PUSH,
    ROUND_ATTEMPTS,
    Backoff,
    LongRetries,
    Schedule,
    plan,
)
from nsps.domain.retry_table import duration, rows
from nsps_local.retries_page import PAGE, rendered

START = datetime(2026, 11, 21, tzinfo=UTC)


def test_the_subscriptions_own_retries_are_some_sixteen_hours() -> None:
    gaps = list(PUSH.gaps())
    assert gaps[:8] == [10, 20, 40, 80, 160, 320, 600, 600]
    assert len(gaps) == 99
    assert 15.5 * 3600 < sum(gaps) < 16.5 * 3600
    assert [PUSH.gap_after(n) for n in (1, 2, 7, 99)] == [gaps[0], gaps[1], gaps[6], gaps[98]]


def test_the_long_retries_go_on_for_thirty_days() -> None:
    now, tries, at = START, 0, []
    while (following := LONG_RETRIES.next(START, tries, now)) is not None:
        now, tries = following, tries + 1
        at.append(now - START)
    assert at[:7] == [timedelta(hours=h) for h in (1, 3, 7, 15, 31, 55, 79)]
    assert at[-1] <= timedelta(days=30) < at[-1] + timedelta(hours=24)
    assert len(at) == 33


def test_a_late_tick_does_not_lengthen_the_schedule() -> None:
    late = START + timedelta(days=29, hours=12)
    assert LONG_RETRIES.next(START, 7, late) is None
    assert LONG_RETRIES.next(START, 7, START + timedelta(days=28)) == START + timedelta(days=29)


def test_every_outcome_is_final_or_visibly_waiting() -> None:
    waiting = {outcome for outcome in Outcome if not outcome.final}
    assert waiting == {Outcome.ACCEPTED, Outcome.RETRYING, Outcome.PARKED, Outcome.WAITING}


def test_the_worst_of_several_resources_is_the_outcome() -> None:
    order = [Outcome.UNCHANGED, Outcome.DELIVERED, Outcome.SUPERSEDED, Outcome.ACCEPTED]
    order.append(Outcome.REJECTED)
    for one, other in pairwise(order):
        assert worst(one, other) is worst(other, one) is other


# ---- thirty days, attempt by attempt --------------------------------------------------------


class World:
    """A simulated clock, Pub/Sub's own retries, the dead letters and the tick of a minute."""

    def __init__(self, schedule: Schedule, start: datetime, well_from: timedelta | None) -> None:
        self.schedule, self.now, self.start = schedule, start, start
        self.well_from = well_from
        self.attempts: list[tuple[timedelta, int]] = []
        self.became = ""

    def run(self) -> None:
        if self._pushes(0, self.schedule.push.attempts):
            return
        parked_at, tries = self.now, 0
        while (following := self.schedule.long.next(parked_at, tries, self.now)) is not None:
            self.now = following + timedelta(seconds=-following.timestamp() % 60)  # a tick
            tries += 1
            sent_at = self.now
            if self._pushes(tries, ROUND_ATTEMPTS):
                return
            self.now = sent_at
        self.now = max(
            self.schedule.long.ends(parked_at), self.now + timedelta(seconds=LAST_TRY_SECONDS)
        )
        self.became = "expired"

    def _pushes(self, retry_round: int, attempts: int) -> bool:
        for attempt in range(1, attempts + 1):
            since = self.now - self.start
            self.attempts.append((since, retry_round))
            if self.well_from is not None and since >= self.well_from:
                self.became = "delivered"
                return True
            if attempt < attempts:
                self.now += timedelta(seconds=self.schedule.push.gap_after(attempt))
        return False


def test_thirty_days_of_retries_against_a_simulated_clock_in_under_a_second() -> None:
    begun = time.perf_counter()
    world = World(Schedule(), START, None)
    world.run()
    assert time.perf_counter() - begun < 1
    own = [at for at, retry_round in world.attempts if retry_round == 0]
    assert len(own) == 100 and own[-1] == timedelta(seconds=sum(PUSH.gaps()))
    rounds = Counter(retry_round for _, retry_round in world.attempts if retry_round)
    assert set(rounds.values()) == {ROUND_ATTEMPTS}
    assert len(rounds) in (32, 33)  # a tick comes up to a minute late each time
    assert world.became == "expired"
    assert timedelta(days=30) < world.now - START < timedelta(days=31)
    # nothing waits for longer than a day
    waits = [later - sooner for (sooner, _), (later, _) in pairwise(world.attempts)]
    assert max(waits) < timedelta(hours=24, minutes=1)


@pytest.mark.parametrize("hours", [0, 0.01, 1, 15, 16, 17, 24, 100, 24 * 29])
def test_whenever_the_system_is_well_again_the_event_is_delivered(hours: float) -> None:
    world = World(Schedule(), START, timedelta(hours=hours))
    world.run()
    delivered = world.attempts[-1][0] - timedelta(hours=hours)
    assert world.became == "delivered"
    # from ten minutes for a short outage to a day for a long one
    assert delivered <= max(timedelta(minutes=10), min(timedelta(hours=hours), timedelta(hours=25)))


def test_the_plan_is_what_the_simulation_does() -> None:
    world = World(Schedule(), START, None)
    world.run()
    planned = plan(Schedule(), START)
    by_plan = [(each.at - START, each.retry_round) for each in planned.attempts]
    assert by_plan[:100] == world.attempts[:100]
    for (planned_at, retry_round), (at, same) in zip(by_plan, world.attempts, strict=False):
        assert retry_round == same and timedelta(0) <= at - planned_at <= timedelta(minutes=34)
    assert planned.expires_at - planned.parked_at == timedelta(days=30)


schedules = st.builds(
    Schedule,
    st.builds(Backoff, st.integers(1, 60), st.integers(60, 600), st.integers(5, 100)),
    st.builds(
        LongRetries,
        st.lists(st.floats(0.1, 48), max_size=6).map(tuple),
        st.floats(1, 72),
        st.floats(0, 40),
        st.floats(0, 0.5),
    ),
)


@settings(deadline=None)
@given(schedules, st.floats(0, 1))
def test_every_schedule_ends_and_never_goes_back(schedule: Schedule, spread: float) -> None:
    planned = plan(schedule, START)
    moments = [each.at for each in planned.attempts if each.attempt == 1]
    assert moments == sorted(moments)
    assert all(at <= schedule.long.ends(planned.parked_at) for at in moments[1:])
    assert planned.expires_at >= moments[-1]
    following = schedule.long.next(START, 0, START, spread)
    if following is not None:
        assert following <= schedule.long.ends(START)
        assert schedule.long.next(START, 0, START) <= following  # type: ignore[operator]
    printed = rows(schedule, START)
    assert printed[0].first == START and printed[-1].first == planned.expires_at


# ---- what is printed --------------------------------------------------------------------------


def test_the_table_in_the_docs_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rendered(page), "run: python -m nsps_local.retries_page"
    assert "| attempt 8 to 100 | every 10 min |" in page
    with pytest.raises(ValueError, match="no place"):
        rendered("# Retries\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (10, "10 s"), (90, "90 s"), (150, "2 min 30 s"), (600, "10 min")),
        *((3600, "1 h"), (56400, "15 h 40 min"), (86400, "1 day"), (2_649_600, "30 days 16 h")),
    ],
)
def test_durations_read_well(seconds: int, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text
