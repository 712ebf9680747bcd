"""Late answers: who may bring them, what becomes of them, and that none is lost or does harm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsps.cloud.receiver import Reply
from nsps.cloud.store import Store, StoreUnavailable
from nsps.connector.base import Answer, AnswerState, CallbackInvalid, CallbackRequest
from nsps.delivery.resend import Resend
from nsps.domain.outcome import Transient
from nsps.flows.callbacks import MAX_BODY_BYTES, Answers, Callbacks
from nsps.runtime.secrets import SecretUnavailable

from tests.unit.connector.systems import REDACTOR, Clerk, Kit, new_store, sim_event
from tests.unit.flow_parts import Topics


class Notifying(Clerk):
    """One that says {"order", "state", "message", "at"}, or a list of such."""

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        try:
            document = json.loads(request.body)
            return [
                Answer(
                    each["order"],
                    AnswerState(each["state"]),
                    each.get("message", ""),
                    datetime.fromisoformat(each["at"]) if "at" in each else None,
                )
                for each in (document if isinstance(document, list) else [document])
            ]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CallbackInvalid(f"cannot be read: password=hunter2 {error}") from error


class Rig:
    def __init__(self, store: Store) -> None:
        self.store, self.clerk, self.topics = store, Notifying(), Topics()
        self.kit = Kit(store, self.clerk, handler="oms")
        self.redactor_fault: Exception | None = None
        publisher: Any = self.topics
        answers = Answers(
            store, self.kit.poster, Resend(lambda: publisher, "events"), self._redactor
        )
        self.callbacks = Callbacks({"oms": self.clerk}, answers)

    def _redactor(self) -> Any:
        if self.redactor_fault:
            raise self.redactor_fault
        return REDACTOR

    def send(
        self, document: Any = None, *, handler: str = "oms", proof: str = "right", body: bytes = b""
    ) -> Reply:
        data = body if document is None else json.dumps(document).encode()
        request = CallbackRequest("POST", "/listener", {"X-Proof": proof}, data, {})
        return self.callbacks.handle(handler, request)

    def outcome(self, event: Any) -> str:
        return str(self.kit.delivery(event)["outcome"])


@pytest.fixture
def rig(target: str) -> Rig:
    return Rig(new_store(target))


DONE = {"order": "so-1", "state": "done"}


@pytest.mark.parametrize(
    ("state", "outcome", "status"), [("done", "delivered", "OK"), ("failed", "rejected", "FAILED")]
)
def test_an_answer_finishes_its_delivery(rig: Rig, state: str, outcome: str, status: str) -> None:
    event = sim_event()
    rig.kit.deliver(event)
    reply = rig.send({"order": "so-1", "state": state, "message": "said so"})
    assert (reply.code, reply.body) == (204, None)
    assert rig.outcome(event) == outcome
    assert rig.kit.espf.statuses == ["IN_PROGRESS", status]


def test_a_get_is_answered_200_for_kannel_repeats_all_else(rig: Rig) -> None:
    event = sim_event()
    rig.kit.deliver(event)
    request = CallbackRequest("GET", "/", {"X-Proof": "right"}, json.dumps(DONE).encode(), {})
    assert rig.callbacks.handle("oms", request).code == 200
    assert rig.outcome(event) == "delivered"


def test_several_answers_may_come_together(rig: Rig) -> None:
    events = [sim_event(1, i_account=n, imsi=f"00101000000010{n}") for n in (1, 2)]
    for event in events:
        rig.kit.deliver(event)
    assert rig.send([DONE, {"order": "so-2", "state": "failed"}]).code == 204
    assert [rig.outcome(event) for event in events] == ["delivered", "rejected"]


@pytest.mark.parametrize("proof", ["", "wrong"])
def test_who_cannot_prove_it_is_the_system_changes_nothing(rig: Rig, proof: str) -> None:
    event = sim_event()
    rig.kit.deliver(event)
    reply = rig.send(DONE, proof=proof)
    assert (reply.code, reply.body) == (401, {"error": "not authorized"})
    assert rig.outcome(event) == "accepted"


def test_an_unknown_handler_is_404_whoever_asks(rig: Rig) -> None:
    for handler in ("hss", "", "../oms", "OMS"):
        assert rig.send(DONE, handler=handler).code == 404


def test_what_cannot_be_read_is_400_and_says_why_without_secrets(rig: Rig) -> None:
    reply = rig.send(body=b"{")
    assert reply.code == 400 and reply.body is not None
    assert "cannot be read" in reply.body["error"] and "hunter2" not in reply.body["error"]


def test_a_body_that_is_too_large_is_not_even_read(rig: Rig) -> None:
    assert rig.send(body=b"x" * (MAX_BODY_BYTES + 1), proof="wrong").code == 413


def test_an_answer_to_nobodys_order_is_recorded_and_acknowledged(rig: Rig) -> None:
    assert rig.send({**DONE, "message": "token=abcdefgh"}).code == 204
    assert rig.kit.espf.posted == []
    (kept,) = [order.to_dict() for order in rig.store.orders("oms").stream()]
    assert kept is not None and kept["unknown"] == "so-1"
    assert kept["answers"][0]["message"] == "token=***"


def test_the_same_answer_again_and_a_contradiction_change_nothing(rig: Rig) -> None:
    event = sim_event()
    rig.kit.deliver(event)
    for state in ("progress", "done", "done", "failed", "progress"):
        assert rig.send({"order": "so-1", "state": state}).code == 204
    assert rig.outcome(event) == "delivered"
    assert rig.kit.espf.statuses == ["IN_PROGRESS", "OK"]
    kept = rig.store.read(rig.store.order("oms", rig.clerk.orders[0].reference))
    assert kept is not None and len(kept["answers"]) == 5


def test_a_later_word_of_the_system_corrects_an_earlier_one(rig: Rig) -> None:
    event = sim_event()
    rig.kit.deliver(event)
    rig.send({"order": "so-1", "state": "failed", "at": "2026-11-21T03:00:00+00:00"})
    rig.send({"order": "so-1", "state": "done", "at": "2026-11-21T02:00:00+00:00"})
    assert rig.outcome(event) == "rejected", "an older word"
    rig.send({"order": "so-1", "state": "done", "at": "2026-11-21T04:00:00+00:00"})
    assert rig.outcome(event) == "delivered"
    assert rig.kit.espf.statuses == ["IN_PROGRESS", "FAILED", "OK"]


def test_while_firestore_or_the_secrets_are_away_it_is_to_be_sent_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = sim_event()
    rig.kit.deliver(event)

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("Firestore is away")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "transact", away)
        reply = rig.send(DONE)
    assert reply.code == 503 and reply.headers == {"Retry-After": "10"}
    rig.redactor_fault = SecretUnavailable("secret sm://digest-key: Secret Manager is away")
    assert rig.send(DONE).code == 503
    rig.redactor_fault = None
    assert rig.send(DONE).code == 204 and rig.outcome(event) == "delivered"


def test_the_same_answer_completes_what_a_crash_cut_off(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = sim_event()
    rig.kit.deliver(event)

    class Crash(BaseException):
        pass

    def crash(*_: Any, **__: Any) -> Any:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr("nsps.delivery.ledger.orders.Orders.complete", crash)
        with pytest.raises(Crash):
            rig.send(DONE)
    assert rig.outcome(event) == "accepted"
    assert rig.send(DONE).code == 204
    assert rig.outcome(event) == "delivered"
    assert rig.kit.espf.statuses == ["IN_PROGRESS", "OK"]


def test_who_waited_behind_the_order_is_sent_through_enrichment_again(rig: Rig) -> None:
    rig.kit.deliver(sim_event(1))
    second = sim_event(2, blocked=True)
    body = {"event_type": "SIM/Updated", "variables": {"i_account": 1001}}
    rig.store.event(second.event_id).set({**body, "received_at": "r", "trace_id": "a" * 32})
    rig.kit.deliver(second)
    rig.topics.faults = [Transient("Pub/Sub is away")]
    assert rig.send(DONE).code == 503, "so the system sends it again"
    assert rig.send(DONE).code == 204
    ((topic, sent, attributes),) = rig.topics.sent
    assert (topic, sent) == ("events", body)
    assert attributes["event_id"] == second.event_id and attributes["handler"] == "oms"
    assert (attributes["received_at"], attributes["trace_id"]) == ("r", "a" * 32)


def test_a_follower_that_the_history_has_forgotten_stops_nothing(rig: Rig) -> None:
    first = sim_event(1)
    rig.kit.deliver(first)
    rig.kit.deliver(sim_event(2, blocked=True))
    assert rig.send(DONE).code == 204
    assert rig.topics.sent == [] and rig.outcome(first) == "delivered"


@pytest.mark.parametrize(
    "order", ["", "a/b", "..", "~x", "__x__", "\ud83d", "é" * 400, "x" * 5000, "\x00", "a b%2F?"]
)
def test_whatever_an_order_is_called_it_is_answered(rig: Rig, order: str) -> None:
    now = datetime.now(UTC).isoformat()
    reply = rig.send({"order": order, "state": "done", "at": now})
    assert reply.code in (204, 400)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=60) | st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_no_body_makes_it_crash(rig: Rig, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps({**DONE, **body}).encode()
    assert rig.send(body=data).code in (204, 400)
