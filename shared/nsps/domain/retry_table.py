"""A schedule as a table for people: like tries in one row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise

from nsps.domain.retry import ROUND_ATTEMPTS, Attempt, Plan, Schedule, plan


@dataclass(frozen=True, slots=True)
class Row:
    """Tries that follow each other after the same gap. ``first`` and ``last``: of their starts."""

    what: str
    gap: str
    first: datetime
    last: datetime


def rows(schedule: Schedule, start: datetime) -> list[Row]:
    """Everything that is tried for an event which is first delivered at ``start``."""
    made = plan(schedule, start)
    return [*_pushed(made), *_sent_again(made), _end(schedule, made)]


def _pushed(made: Plan) -> Iterator[Row]:
    own = [attempt for attempt in made.attempts if attempt.retry_round == 0]
    yield Row("attempt 1", "at once", own[0].at, own[0].at)
    for gap, steps in groupby(pairwise(own), key=lambda pair: pair[1].at - pair[0].at):
        yield _row("attempt", gap, [pair[1] for pair in steps], lambda each: each.attempt)


def _sent_again(made: Plan) -> Iterator[Row]:
    starts = [attempt for attempt in made.attempts if attempt.retry_round and attempt.attempt == 1]
    before = Attempt(made.parked_at, 0, 0)
    for gap, steps in groupby(
        pairwise([before, *starts]), key=lambda pair: pair[1].at - pair[0].at
    ):
        yield _row("sent again", gap, [pair[1] for pair in steps], lambda each: each.retry_round)


def _row(what: str, gap: timedelta, tries: list[Attempt], number: Callable[[Attempt], int]) -> Row:
    first, last = tries[0], tries[-1]
    numbers = f"{number(first)}" if first is last else f"{number(first)} to {number(last)}"
    after = (
        f"{duration(gap)} later" if first is last else f"every {duration(gap).removeprefix('1 ')}"
    )
    return Row(f"{what} {numbers}", after, first.at, last.at)


def _end(schedule: Schedule, made: Plan) -> Row:
    days = f"{schedule.long.days:g} days after attempt {schedule.push.attempts}"
    return Row("expired", days, made.expires_at, made.expires_at)


def note(schedule: Schedule) -> str:
    """What the rows leave out."""
    push = [schedule.push.gap_after(attempt) for attempt in range(1, ROUND_ATTEMPTS)]
    within = duration(timedelta(seconds=sum(push)))
    jitter = f"{schedule.long.jitter:.0%}".replace("%", " %")
    return (
        f"Each time it is sent again it has {ROUND_ATTEMPTS} attempts, within {within}. It comes "
        f"up to {jitter} of the gap later: what failed together must not come back together."
    )


def duration(span: timedelta) -> str:
    """``90 s``, ``10 min``, ``16 h 5 min``, ``30 days``."""
    seconds = round(span.total_seconds())
    if seconds < 120 and seconds % 60:
        return f"{seconds} s"
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(days, "day" if days == 1 else "days"), (hours, "h"), (minutes, "min"), (left, "s")]
    named = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(named[:2]) or "0 s"
