"""What came to an outcome is found by an index: all of it, each event once, the newest first."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.console import by_outcome
from nsps.console.by_outcome import ByOutcome
from nsps.delivery.timeline import Timeline, Wanted
from nsps.domain.outcome import Outcome

START = datetime(2026, 11, 21, 10, tzinfo=UTC)
HANDLERS = ("hss", "mail")
OUTCOMES = ["retrying", "delivered", "rejected", "superseded", "parked", "accepted"]


def fill(store: Store, events: int, chance: random.Random) -> list[str]:
    """Events with deliveries, replays, and some that were never read."""
    idents = [f"e{number:02}" for number in range(events)]
    for number, ident in enumerate(idents):
        at = START + timedelta(minutes=number)
        if chance.random() < 0.2:
            state = chance.choice(["rejected", "expired", "parked"])
            about = {"finished_at": at + timedelta(hours=9)}
            if state == "parked":
                about = park(store, "enrichment", ident, at)
            store.event(ident).set(_event(at, state) | about)
            continue
        runs = {}
        for name in HANDLERS:
            last = chance.choice([0, 0, 2])
            if last:
                runs[name] = {"n": last, "at": at}
            for run in range(last + 1):
                outcome = chance.choice(OUTCOMES)
                ends = at + timedelta(
                    minutes=chance.randrange(200), milliseconds=chance.randrange(9)
                )
                delivery = f"{ident}.{run}" if run else ident
                data: dict[str, Any] = {"outcome": outcome, "begun_at": at, "finished_at": ends}
                if outcome == "retrying":
                    data = {"outcome": None, "begun_at": at, "retry": {"error": "away", "at": at}}
                elif outcome == "accepted":
                    data = {"outcome": outcome, "begun_at": at}
                elif outcome == "parked":
                    data = {"outcome": outcome, **park(store, name, delivery, ends)}
                store.delivery(name, delivery).set(data)
        store.event(ident).set(_event(at, "enriched") | {"runs": runs, "enriched_at": at})
    return idents


def park(store: Store, stage: str, delivery: str, next_try: datetime) -> dict[str, Any]:
    """One that was parked; an attempt was perhaps never begun."""
    kept = {"stage": stage, "event_id": delivery.partition(".")[0], "next_try": next_try}
    store.parked(f"{stage}.{delivery}").set(kept)
    return {"next_try": next_try}


def _event(at: datetime, state: str) -> dict[str, Any]:
    return {"event_type": "SIM/Updated", "owner": "account:1", "handlers": list(HANDLERS),
            "state": state, "opened_at": at}  # fmt: skip


@pytest.mark.parametrize("handler", [None, "hss"])
@pytest.mark.parametrize(
    "outcomes",
    [
        {"rejected"},
        {"rejected", "expired"},
        {"superseded"},
        {"retrying"},
        {"accepted"},
        {"parked"},
        {"parked", "retrying", "rejected"},
    ],
)
@pytest.mark.parametrize("since", [None, START + timedelta(minutes=20)])
def test_it_finds_what_looking_through_everything_finds(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    handler: str | None,
    outcomes: set[str],
    since: datetime | None,
) -> None:
    monkeypatch.setattr(by_outcome, "AT_ONCE", 3)
    fill(store, 50, random.Random(f"{handler}{sorted(outcomes)}"))
    timeline = Timeline(store, {})
    wanted = Wanted(handler=handler, outcomes=frozenset(outcomes), since=since)
    names = [handler] if handler else list(HANDLERS)
    expected = {each.event_id for each in timeline.page(wanted, 99).histories}
    found, after = list[str](), ""
    while True:
        page = ByOutcome(store, timeline).page(wanted, names, 4, after)
        found += [each.event_id for each in page.histories]
        if page.next is None:
            break
        after = page.next
    assert expected and sorted(found) == sorted(expected)


def test_the_newest_end_comes_first(store: Store) -> None:
    for number, minutes in enumerate((5, 90, 30)):
        at = START + timedelta(minutes=number)
        store.event(f"e{number}").set(_event(at, "enriched") | {"handlers": ["hss"]})
        ends = {
            "outcome": "rejected",
            "begun_at": at,
            "finished_at": START + timedelta(minutes=minutes),
        }
        store.delivery("hss", f"e{number}").set(ends)
    wanted = Wanted(outcomes=frozenset({"rejected"}))
    page = ByOutcome(store, Timeline(store, {})).page(wanted, ["hss"], 9)
    assert [each.event_id for each in page.histories] == ["e1", "e2", "e0"]


@pytest.mark.parametrize("outcome", Outcome)
def test_of_what_waits_not_everything_can_be_found_so(outcome: Outcome) -> None:
    waits = outcome is Outcome.WAITING
    assert ByOutcome.finds(Wanted(outcomes=frozenset({outcome.value}))) != waits
    assert not ByOutcome.finds(Wanted(account=1, outcomes=frozenset({outcome.value})))
