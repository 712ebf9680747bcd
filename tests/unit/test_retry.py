"""The schedules: what the data says, attempt by attempt."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from nsps.outcome import Outcome, worst
from nsps.retry import LADDER, PUSH

START = datetime(2026, 11, 21, tzinfo=UTC)


def test_the_subscriptions_own_retries_are_some_sixteen_hours() -> None:
    gaps = list(PUSH.gaps())
    assert gaps[:8] == [10, 20, 40, 80, 160, 320, 600, 600]
    assert len(gaps) == 99
    assert 15.5 * 3600 < sum(gaps) < 16.5 * 3600
    assert [PUSH.gap_after(n) for n in (1, 2, 7, 99)] == [gaps[0], gaps[1], gaps[6], gaps[98]]


def test_the_ladder_climbs_for_thirty_days() -> None:
    now, tries, at = START, 0, []
    while (following := LADDER.next(START, tries, now)) is not None:
        now, tries = following, tries + 1
        at.append(now - START)
    assert at[:7] == [timedelta(hours=h) for h in (1, 3, 7, 15, 31, 55, 79)]
    assert at[-1] <= timedelta(days=30) < at[-1] + timedelta(hours=24)
    assert len(at) == 33


def test_a_late_tick_does_not_lengthen_the_ladder() -> None:
    late = START + timedelta(days=29, hours=12)
    assert LADDER.next(START, 7, late) is None
    assert LADDER.next(START, 7, START + timedelta(days=28)) == START + timedelta(days=29)


def test_every_outcome_is_final_or_visibly_waiting() -> None:
    waiting = {outcome for outcome in Outcome if not outcome.final}
    assert waiting == {Outcome.ACCEPTED, Outcome.RETRYING, Outcome.PARKED, Outcome.WAITING}


def test_the_worst_of_several_resources_is_the_outcome() -> None:
    order = [Outcome.UNCHANGED, Outcome.DELIVERED, Outcome.SUPERSEDED, Outcome.ACCEPTED]
    order.append(Outcome.REJECTED)
    for one, other in itertools.pairwise(order):
        assert worst(one, other) is worst(other, one) is other
