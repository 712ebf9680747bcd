"""Messages with receipts: accepted when they are sent, OK or FAILED when their report comes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.connector.base import (
    Answer,
    AnswersLater,
    AnswerState,
    Call,
    CallbackRefused,
    CallbackRequest,
    Message,
    Ordering,
    Receipt,
)
from nsps.delivery.ledger.orders import AnswerEffect
from nsps.delivery.resend import Resend
from nsps.domain.outcome import NoAnswer, Outcome
from nsps.flows.callbacks import Answers, Callbacks
from nsps.flows.deadlines import Deadlines

from tests.unit.connector.systems import REDACTOR, Kit, Letters, sim_event
from tests.unit.connector.test_orders import Published

TO = "a@example.net"


class Sms(Letters, AnswersLater):
    """Its messages are reported on as m1, m2, ..."""

    def __init__(self, ordering: Ordering = Ordering.EVERY) -> None:
        super().__init__(ordering)
        self.sent = 0
        self.receipts = True
        self.quiet = AnswerState.FAILED

    @property
    def silence(self) -> AnswerState:
        return self.quiet

    def send(self, message: Message, call: Call) -> str | Receipt:
        self.seen.take("send", message.content, call.reference)
        self.sent += 1
        self.seen.done()
        return Receipt(f"m{self.sent}", "202 queued") if self.receipts else "250 delivered"

    def authenticate(self, request: CallbackRequest) -> None:
        if request.headers.get("X-Proof") != "right":
            raise CallbackRefused("no proof")

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        name, _, state = request.body.decode().partition(" ")
        return [Answer(name, AnswerState(state), "so it says")]


class Post:
    """A kit with a system that reports, and the way its reports come in."""

    def __init__(self, store: Store, ordering: Ordering = Ordering.EVERY) -> None:
        self.sms, self.store = Sms(ordering), store
        self.kit = Kit(store, self.sms, answer_hours=2)
        publisher: Any = Published()
        self.answers = Answers(
            store, self.kit.poster, Resend(lambda: publisher, "t"), lambda: REDACTOR
        )
        self.callbacks = Callbacks({"hss": self.sms}, self.answers)

    def report(self, name: str, state: str = "done", proof: str = "right") -> int:
        body = f"{name} {state}".encode()
        request = CallbackRequest("POST", "/", {"X-Proof": proof}, body, {})
        return self.callbacks.handle("hss", request).code

    def late(self, *, tick: bool = True) -> int:
        """The reports of all messages are overdue; a tick deals with them."""
        now = datetime.now(UTC)
        for order in self.store.client.collection_group("orders").stream():
            order.reference.set({"due_at": now - timedelta(hours=1)}, merge=True)
        connectors = {"hss": self.sms}
        deadlines = Deadlines([self.kit.settings], lambda: connectors, self.store, self.answers)
        return deadlines.tick("hss", now, may_ask=True, goes_on=lambda: True)


@pytest.fixture
def post(store: Store) -> Post:
    return Post(store)


@pytest.mark.parametrize(
    ("state", "outcome", "status"),
    [("done", "delivered", "OK"), ("failed", "rejected", "FAILED")],
)
def test_a_message_is_accepted_until_its_receipt_comes(
    post: Post, state: str, outcome: str, status: str
) -> None:
    event = sim_event(email=TO)
    verdict = post.kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.ACCEPTED)
    (result,) = post.kit.delivery(event)["results"]
    assert (result["result"], result["order"], result["answer"]) == ("sent", "m1", "202 queued")
    assert post.kit.espf.statuses == ["IN_PROGRESS"]
    assert post.report("m1", "progress") == 204
    assert post.kit.delivery(event)["outcome"] == "accepted"
    assert post.report("m1", state) == 204
    assert post.kit.delivery(event)["outcome"] == outcome
    assert post.kit.espf.statuses == ["IN_PROGRESS", status]


def test_a_receipt_without_proof_decides_nothing(post: Post) -> None:
    event = sim_event(email=TO)
    post.kit.deliver(event)
    assert post.report("m1", "done", proof="wrong") == 401
    assert post.kit.delivery(event)["outcome"] == "accepted"


def test_a_redelivered_message_waits_for_the_receipt_and_is_not_sent_again(post: Post) -> None:
    event = sim_event(1, email=TO)
    post.kit.deliver(event)
    assert post.kit.deliver(event).outcome is Outcome.ACCEPTED
    assert post.kit.deliver(post.kit.read_again(event, 5)).outcome is Outcome.ACCEPTED
    assert post.sms.sent == 1 and post.kit.espf.statuses == ["IN_PROGRESS"]
    post.report("m1")
    assert post.kit.delivery(event)["outcome"] == "delivered"
    assert post.kit.deliver(event).outcome is Outcome.DELIVERED
    assert post.sms.sent == 1


def test_a_receipt_that_overtakes_the_acceptance_is_not_lost(post: Post) -> None:
    post.sms.seen.after = [lambda: _expect(post.report("m1"), 204)]
    assert post.kit.deliver(sim_event(email=TO)).outcome is Outcome.DELIVERED
    assert post.kit.espf.statuses == ["OK"]


def _expect(found: int, expected: int) -> None:
    assert found == expected


def test_a_message_without_a_receipt_in_time_has_failed_until_one_comes(post: Post) -> None:
    event = sim_event(email=TO)
    post.kit.deliver(event)
    (order,) = post.store.client.collection_group("orders").stream()
    assert order.get("due_at") - order.get("accepted_at") == timedelta(hours=2)
    assert post.late() == 1
    assert post.kit.delivery(event)["outcome"] == "rejected"
    assert "did not answer within 2 hours" in post.kit.delivery(event)["errors"][0]
    assert post.report("m1") == 204
    assert post.kit.delivery(event)["outcome"] == "delivered"
    assert post.kit.espf.statuses == ["IN_PROGRESS", "FAILED", "OK"]
    assert not post.kit.resource(f"message/event:{event.event_id}")["dirty"]


def test_where_only_failures_are_reported_silence_is_ok_until_one_comes(post: Post) -> None:
    post.sms.quiet = AnswerState.DONE
    event = sim_event(email=TO)
    post.kit.deliver(event)
    assert post.late() == 1
    assert post.kit.delivery(event)["outcome"] == "delivered"
    assert post.report("m1", "failed") == 204
    assert post.kit.delivery(event)["outcome"] == "rejected"
    assert post.kit.espf.statuses == ["IN_PROGRESS", "OK", "FAILED"]


def test_a_message_that_got_no_receipt_is_delivered_at_once(post: Post) -> None:
    post.sms.receipts = False
    event = sim_event(email=TO)
    assert post.kit.deliver(event).outcome is Outcome.DELIVERED
    assert post.kit.deliver(event).outcome is Outcome.DELIVERED
    assert post.late() == 0


def test_the_receipt_of_the_repetition_counts_where_the_first_answer_was_lost(post: Post) -> None:
    post.sms.seen.after = [NoAnswer("the answer is lost")]
    event = sim_event(email=TO)
    assert not post.kit.deliver(event).ack
    post.kit.free(f"message/event:{event.event_id}")
    assert post.kit.deliver(event).outcome is Outcome.ACCEPTED
    assert post.report("m2") == 204
    assert post.kit.delivery(event)["outcome"] == "delivered"


@pytest.mark.parametrize("ordering", [Ordering.NEWEST, Ordering.STATE])
def test_a_receipt_keeps_no_other_message_back(store: Store, ordering: Ordering) -> None:
    post = Post(store, ordering)
    first, second = sim_event(1, email=TO), sim_event(2, email=TO, blocked=True)
    assert post.kit.deliver(first).outcome is Outcome.ACCEPTED
    assert post.kit.deliver(second).outcome is Outcome.ACCEPTED
    assert post.report("m2") == 204 and post.report("m1", "failed") == 204
    assert post.kit.delivery(first)["outcome"] == "rejected"
    assert post.kit.delivery(second)["outcome"] == "delivered"


def test_what_has_arrived_once_has_arrived(post: Post) -> None:
    """A message that was sent twice under one name is reported on twice."""
    event = sim_event(email=TO)
    post.kit.deliver(event)
    takes = partial(post.answers.take, "hss")
    assert takes(Answer("m1", AnswerState.FAILED)) is AnswerEffect.SETTLED
    silence = takes(Answer("m1", AnswerState.DONE), ours=True)
    assert silence is AnswerEffect.LATE, "that nothing was heard contradicts no report"
    assert takes(Answer("m1", AnswerState.DONE)) is AnswerEffect.CORRECTED
    later = datetime.now(UTC) + timedelta(days=1)
    assert takes(Answer("m1", AnswerState.FAILED, at=later)) is AnswerEffect.LATE
    assert post.kit.delivery(event)["outcome"] == "delivered"
    assert post.kit.espf.statuses == ["IN_PROGRESS", "FAILED", "OK"]
