"""Asynchronous connectors through the kit: accepted now, OK or FAILED when the answer comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.connector.base import Action, Answer, AnswerState
from nsps.delivery.ledger.orders import AnswerEffect
from nsps.delivery.resend import Resend
from nsps.domain.outcome import NoAnswer, Outcome, Terminal, Transient, Unclear
from nsps.flows.callbacks import Answers

from tests.unit.connector.systems import IMSI, OTHER_IMSI, REDACTOR, Clerk, Kit, sim_event


class Published:
    """Stands for Pub/Sub: what was sent through enrichment again."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []

    def publish(self, topic: str, data: bytes, attributes: dict[str, str], **_: Any) -> str:
        self.messages.append(attributes)
        return str(len(self.messages))


class Office:
    """A kit with an asynchronous system, and the way its answers come in."""

    def __init__(self, store: Store, clerk: Clerk | None = None) -> None:
        self.clerk, self.published = clerk or Clerk(), Published()
        self.kit = Kit(store, self.clerk)
        publisher: Any = self.published
        self.answers = Answers(
            store, self.kit.poster, Resend(lambda: publisher, "t"), lambda: REDACTOR
        )

    def answer(
        self, order: str, state: AnswerState = AnswerState.DONE, message: str = "", **more: Any
    ) -> AnswerEffect:
        return self.answers.take("hss", Answer(order, state, message), **more)


@pytest.fixture
def office(store: Store) -> Office:
    return Office(store)


def test_accepted_is_in_progress_and_done_is_ok(office: Office) -> None:
    event = sim_event()
    verdict = office.kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.ACCEPTED)
    assert office.kit.espf.statuses == ["IN_PROGRESS"]
    assert office.kit.resource(IMSI)["pending"]["reference"] == office.clerk.orders[0].reference
    assert office.answer("so-1", AnswerState.PROGRESS) is AnswerEffect.PROGRESS
    assert office.kit.delivery(event)["outcome"] == "accepted"
    assert office.answer("so-1") is AnswerEffect.SETTLED
    assert office.kit.delivery(event)["outcome"] == "delivered"
    assert office.kit.resource(IMSI)["pending"] is None
    assert office.kit.espf.statuses == ["IN_PROGRESS", "OK"]


def test_failed_is_told_with_the_reason_without_secrets(office: Office) -> None:
    event = sim_event()
    office.kit.deliver(event)
    reason = "no such profile, password=hunter2"
    assert office.answer("so-1", AnswerState.FAILED, reason) is AnswerEffect.SETTLED
    kept = office.kit.delivery(event)
    assert (kept["outcome"], kept["errors"]) == ("rejected", ["no such profile, password=***"])
    assert office.kit.espf.posted[-1][2:] == ("FAILED", "no such profile, password=***")
    assert "hunter2" not in office.kit.everything()


def test_an_answer_is_found_by_our_reference_too_and_counts_once(office: Office) -> None:
    office.kit.deliver(sim_event())
    reference = office.clerk.orders[0].reference
    assert office.answer(reference) is AnswerEffect.SETTLED
    assert office.answer("so-1") is AnswerEffect.REPEATED
    assert office.answer("so-1", AnswerState.FAILED) is AnswerEffect.LATE
    assert office.kit.espf.statuses == ["IN_PROGRESS", "OK"]


def test_an_answer_that_overtakes_the_acceptance_is_not_lost(office: Office) -> None:
    office.clerk.seen.after = [lambda: _expect(office.answer("so-1"), AnswerEffect.UNKNOWN)]
    event = sim_event()
    assert office.kit.deliver(event).outcome is Outcome.DELIVERED
    assert office.kit.espf.statuses == ["OK"]


def _expect(effect: AnswerEffect, expected: AnswerEffect) -> None:
    assert effect is expected


def test_nobody_knows_the_order(office: Office) -> None:
    assert office.answer("so-99") is AnswerEffect.UNKNOWN
    assert office.kit.espf.posted == []


def test_add_then_modify_then_delete(office: Office) -> None:
    for number, event in enumerate(
        (sim_event(1), sim_event(2, blocked=True), sim_event(3, imsi=None)), start=1
    ):
        assert office.kit.deliver(event).outcome is Outcome.ACCEPTED
        office.answer(f"so-{number}")
    assert office.clerk.actions == [Action.ADD, Action.MODIFY, Action.DELETE]
    assert office.kit.resource(IMSI)["owner"] is None
    assert office.kit.deliver(sim_event(4, imsi=None)).outcome is Outcome.UNCHANGED


def test_a_redelivered_message_orders_nothing_more(office: Office) -> None:
    event = sim_event()
    for _ in range(3):
        assert office.kit.deliver(event).ack
    assert len(office.clerk.orders) == 1
    office.answer("so-1")
    assert office.kit.deliver(event).outcome is Outcome.DELIVERED
    assert office.clerk.seen.names() == ["submit"]


def test_the_same_state_joins_the_order_that_is_open(office: Office) -> None:
    first, second = sim_event(1), sim_event(2)
    office.kit.deliver(first)
    assert office.kit.deliver(second).outcome is Outcome.ACCEPTED
    assert len(office.clerk.orders) == 1
    office.answer("so-1")
    assert office.kit.delivery(first)["outcome"] == "delivered"
    assert office.kit.delivery(second)["outcome"] == "delivered"


def test_another_state_waits_for_the_open_order_and_is_sent_again(office: Office) -> None:
    office.kit.deliver(sim_event(1))
    second = sim_event(2, blocked=True)
    office.kit.store.event(second.event_id).set(
        {"event_type": "SIM/Updated", "variables": {"i_account": 1001}, "received_at": "r"}
    )
    verdict = office.kit.deliver(second)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.WAITING)
    assert len(office.clerk.orders) == 1
    office.answer("so-1")
    (sent,) = office.published.messages
    assert (sent["event_id"], sent["handler"]) == (second.event_id, "hss")
    assert office.kit.deliver(replace(second, t=sim_event(3).t)).outcome is Outcome.ACCEPTED
    assert office.clerk.actions == [Action.ADD, Action.MODIFY]


@pytest.mark.parametrize(
    ("error", "ack", "outcome", "status"),
    [
        (Transient("busy", retry_after=9), False, Outcome.RETRYING, "RETRY"),
        (NoAnswer("lost"), False, Outcome.RETRYING, "RETRY"),
        (Terminal("refused"), True, Outcome.REJECTED, "FAILED"),
    ],
)
def test_an_order_that_is_not_taken(
    office: Office, error: Exception, ack: bool, outcome: Outcome, status: str
) -> None:
    office.clerk.seen.before = [error]
    verdict = office.kit.deliver(sim_event())
    assert (verdict.ack, verdict.outcome) == (ack, outcome)
    assert office.kit.espf.statuses == [status]


def test_after_a_lost_answer_the_order_is_submitted_again_under_its_reference(
    office: Office,
) -> None:
    event = sim_event()
    office.clerk.seen.after = [NoAnswer("lost")]
    office.kit.deliver(event)
    office.kit.free(IMSI)
    assert office.kit.deliver(event).outcome is Outcome.ACCEPTED
    assert office.clerk.seen.names() == ["submit", "submit"]
    assert len(office.clerk.orders) == 1
    assert office.kit.espf.statuses == ["RETRY", "IN_PROGRESS"]


def test_after_an_unclear_answer_the_order_is_submitted_again_at_once_and_stays_the_only_one(
    office: Office,
) -> None:
    event = sim_event(1)
    office.clerk.seen.after = [Unclear("500")]
    assert office.kit.deliver(event).outcome is Outcome.RETRYING
    kept = office.kit.resource(IMSI)
    assert kept["lease"] is None and kept["pending"]["doubt_until"] is not None
    assert office.kit.deliver(sim_event(2, blocked=True)).outcome is Outcome.WAITING
    assert len(office.clerk.orders) == 1, "another order would be open beside it"


def test_an_unclear_answer_does_not_wait_for_the_lease(office: Office) -> None:
    event = sim_event()
    office.clerk.seen.after = [Unclear("500")]
    office.kit.deliver(event)
    assert office.kit.deliver(event).outcome is Outcome.ACCEPTED
    assert len(office.clerk.orders) == 1
    assert office.kit.delivery(event)["attempts"] == 2


def test_data_that_can_never_work_orders_nothing(office: Office) -> None:
    assert office.kit.deliver(sim_event(imsi="none")).outcome is Outcome.REJECTED
    assert office.clerk.orders == [] and office.kit.espf.statuses == ["FAILED"]


def test_two_orders_are_finished_together_and_the_worse_counts(office: Office) -> None:
    office.kit.deliver(sim_event(1))
    office.answer("so-1")
    swapped = sim_event(2, imsi=OTHER_IMSI)
    office.kit.deliver(swapped)
    assert office.clerk.actions[1:] == [Action.DELETE, Action.ADD]
    office.answer("so-3")
    assert office.kit.delivery(swapped)["outcome"] == "accepted"
    office.answer("so-2", AnswerState.FAILED, "cannot delete")
    assert office.kit.delivery(swapped)["outcome"] == "rejected"
    assert office.kit.espf.statuses == ["IN_PROGRESS", "OK", "IN_PROGRESS", "FAILED"]


def test_a_deadline_of_ours_is_corrected_by_the_real_answer(office: Office) -> None:
    event = sim_event()
    office.kit.deliver(event)
    office.answer("so-1", AnswerState.FAILED, "no answer in time", ours=True)
    assert office.kit.espf.statuses[-1] == "FAILED"
    assert office.answer("so-1") is AnswerEffect.CORRECTED
    assert office.kit.delivery(event)["outcome"] == "delivered"
    assert office.kit.espf.statuses[-1] == "OK"


def test_a_crash_before_espf_is_told_is_made_good_by_the_tick(office: Office) -> None:
    office.kit.deliver(sim_event())
    office.kit.espf.faults = [Transient("away")]
    office.answer("so-1")
    office.kit.poster.send_due()
    assert office.kit.espf.statuses == ["IN_PROGRESS", "OK"]
