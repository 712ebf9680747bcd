"""Orders that are not answered in time: asked for, or FAILED; a late answer corrects the status."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.connector.base import Answer, AnswerState, Call
from nsps.delivery.ledger.orders import AnswerEffect
from nsps.domain.outcome import Terminal, Transient
from nsps.flows.deadlines import Deadlines

from tests.unit.connector.systems import IMSI, Clerk, sim_event
from tests.unit.connector.test_orders import Office


class AskableClerk(Clerk):
    """An asynchronous system that can be asked, and says what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.says: AnswerState | Exception = AnswerState.PROGRESS
        self.asked: list[str] = []

    @property
    def askable(self) -> bool:
        return True

    def ask(self, order_id: str, call: Call) -> Answer:
        self.asked.append(order_id)
        if isinstance(self.says, Exception):
            raise self.says
        return Answer(order_id, self.says, "so it says")


class Waiting(Office):
    """An order that was taken and not answered."""

    def __init__(self, store: Store, clerk: Clerk | None = None) -> None:
        super().__init__(store, clerk or Clerk())
        clerks: Any = {"hss": self.clerk}
        self.deadlines = Deadlines([self.kit.settings], lambda: clerks, store, self.answers)
        self.event = sim_event()
        self.kit.deliver(self.event)
        self.reference = self.clerk.orders[0].reference

    def order(self) -> dict[str, Any]:
        return self.kit.store.read(self.kit.store.order("hss", self.reference)) or {}

    def late(self, days: float = 2) -> None:
        """The order was taken so long ago, and its time is over."""
        now = datetime.now(UTC)
        fields = {"accepted_at": now - timedelta(days=days), "due_at": now - timedelta(hours=1)}
        self.kit.store.order("hss", self.reference).set(fields, merge=True)

    def tick(self, *, may_ask: bool = True) -> int:
        return self.deadlines.tick("hss", datetime.now(UTC), may_ask=may_ask, goes_on=lambda: True)


def test_an_order_has_a_day_to_be_answered(store: Store) -> None:
    office = Waiting(store)
    due = office.order()["due_at"] - office.order()["accepted_at"]
    assert due == timedelta(hours=24)
    assert office.tick() == 0
    assert office.kit.espf.statuses == ["IN_PROGRESS"]


def test_a_system_that_cannot_be_asked_has_failed(store: Store) -> None:
    office = Waiting(store)
    office.late()
    assert office.tick() == 1
    document = office.kit.delivery(office.event)
    assert document["outcome"] == "rejected"
    assert document["errors"] == ["the system did not answer within 24 hours"]
    assert office.kit.espf.statuses == ["IN_PROGRESS", "FAILED"]
    assert office.tick() == 0 and office.kit.resource(IMSI)["pending"] is None


@pytest.mark.parametrize(
    ("state", "effect", "status"),
    [
        (AnswerState.DONE, AnswerEffect.CORRECTED, "OK"),
        (AnswerState.FAILED, AnswerEffect.REPEATED, "FAILED"),
    ],
)
def test_a_late_answer_is_recorded_and_corrects_the_status(
    store: Store, state: AnswerState, effect: AnswerEffect, status: str
) -> None:
    office = Waiting(store)
    office.late()
    office.tick()
    assert office.answer("so-1", state) is effect
    assert office.kit.espf.statuses[-1] == status
    assert [each["state"] for each in office.order()["answers"]] == ["failed", state.value]


def test_a_system_that_can_be_asked_is_asked(store: Store) -> None:
    clerk = AskableClerk()
    office = Waiting(store, clerk)
    office.late()
    assert office.tick() == 1 and clerk.asked == ["so-1"]
    assert office.kit.delivery(office.event)["outcome"] == "accepted"
    assert office.tick() == 0, "again in an hour"
    office.late()
    clerk.says = AnswerState.DONE
    office.tick()
    assert office.kit.delivery(office.event)["outcome"] == "delivered"
    assert office.kit.espf.statuses == ["IN_PROGRESS", "OK"]


def test_a_system_that_knows_nothing_of_the_order_has_failed(store: Store) -> None:
    office = Waiting(store, clerk := AskableClerk())
    clerk.says = Terminal("no order so-1")
    office.late()
    office.tick()
    errors = office.kit.delivery(office.event)["errors"]
    assert errors == ["the system did not answer within 24 hours, and says now: no order so-1"]


def test_a_system_that_is_down_is_asked_again_for_thirty_days(store: Store) -> None:
    office = Waiting(store, clerk := AskableClerk())
    clerk.says = Transient("HTTP 503")
    for days in (2, 15, 29):
        office.late(days)
        office.tick()
        assert office.kit.delivery(office.event)["outcome"] == "accepted"
    office.late(31)
    office.tick()
    assert len(clerk.asked) == 4
    assert office.kit.delivery(office.event)["outcome"] == "rejected"


def test_an_order_that_goes_on_for_ever_ends(store: Store) -> None:
    office = Waiting(store, AskableClerk())
    office.late(31)
    office.tick()
    errors = office.kit.delivery(office.event)["errors"]
    assert errors == ["the system has been at it for 31 days"]


def test_a_paused_system_is_not_asked_and_its_orders_wait(store: Store) -> None:
    office = Waiting(store, clerk := AskableClerk())
    office.late()
    office.tick(may_ask=False)
    assert clerk.asked == [] and office.kit.delivery(office.event)["outcome"] == "accepted"


def test_two_ticks_at_once_ask_once(store: Store) -> None:
    office = Waiting(store, clerk := AskableClerk())
    office.late()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: office.tick(), range(4)))
    assert clerk.asked == ["so-1"]


def test_an_answer_that_a_crash_left_half_told_is_completed(store: Store) -> None:
    office = Waiting(store)
    # taken in, and no delivery finished: what a crash leaves behind
    at = store.order("hss", office.reference)
    half = {"answer": "done", "settled": False, "due_at": datetime.now(UTC) - timedelta(minutes=1)}
    at.set(half, merge=True)
    assert office.tick(may_ask=False) == 1
    assert office.kit.delivery(office.event)["outcome"] == "delivered"
    assert office.order()["settled"] and office.tick() == 0


def test_an_answer_in_time_needs_no_tick(store: Store) -> None:
    office = Waiting(store)
    office.answer("so-1")
    assert (office.order()["due_at"], office.order()["settled"]) == (None, True)
