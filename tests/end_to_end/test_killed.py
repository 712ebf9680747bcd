"""SIGKILL to each function at each of its steps: nothing is lost, nothing doubled in the history,
the external systems end right, and ESPF is told what the history says.

A step is reached by a fault that holds the function there (PortaBilling or the external system
hangs, Pub/Sub stands still, Firestore is slow for the next write), never by sleeping.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps.delivery.timeline import EventHistory
from nsps.domain.outcome import Outcome
from nsps_testing.waiting import wait_for

from tests.end_to_end.recorder import Received, Recorder
from tests.end_to_end.whole_stack import DATABASE, WholeStack, configuration, webhook

pytestmark = pytest.mark.timeout(240)

SECONDS = 3
"""The handlers' call time-out here."""
SLOW = 120.0
HANDLERS = {"subscribers", "recorder"}


@dataclass
class Place:
    """A stack, the external system that notes what it is sent, and one account."""

    stack: WholeStack
    recorder: Recorder
    i_account: int
    number: int = 900000

    def change(self) -> tuple[int, dict[str, Any]]:
        """Block or unblock in PortaBilling; an event of it that is yet to be sent."""
        blocked = self.stack.accounts()[self.i_account]["blocked"] == "Y"
        operation = "unblock_account" if blocked else "block_account"
        self.stack.sandbox.do(operation, i_account=self.i_account)
        self.number += 1
        return self.number, {"i_env": 1, "i_event": self.number, "i_account": self.i_account}

    def send(self, variables: dict[str, Any]) -> int | None:
        """One webhook; the answer's status, None if there was none."""
        try:
            return self.stack.send("SIM/Updated", **variables).status_code
        except requests.RequestException:
            return None

    def sent(self) -> int:
        """A change and its webhook, accepted."""
        i_event, variables = self.change()
        assert self.send(variables) == 200
        return i_event

    def send_until_accepted(self, variables: dict[str, Any]) -> None:
        """As ESPF: again until the answer is 200."""
        wait_for(lambda: self.send(variables) == 200, 60, "the webhook to be accepted")

    def in_background(self, variables: dict[str, Any]) -> Future[int | None]:
        answer: Future[int | None] = Future()
        run = threading.Thread(target=lambda: answer.set_result(self.send(variables)))
        run.start()
        return answer

    def reached(self, what: Callable[[], Any], why: str) -> None:
        wait_for(what, 60, f"to reach the step: {why}")

    def calls(self, method: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.stack.get(f"/sandbox/calls?method={method}")["calls"]
        return found

    def state(self, i_event: int) -> str | None:
        histories = self.stack.histories(i_event)
        return histories[0].state if histories else None

    def outcome(self, i_event: int, handler: str) -> str | None:
        return next(
            (
                each.outcome
                for history in self.stack.histories(i_event)
                for each in history.deliveries
                if each.handler == handler
            ),
            None,
        )

    def row(self) -> dict[str, Any]:
        query = f"select * from subscribers where i_account = {self.i_account}"
        return self.stack.rows("subscribers.db", query)[0]

    def wanted(self) -> str:
        return "barred" if self.stack.accounts()[self.i_account]["blocked"] == "Y" else "active"

    def killed(self, part: str) -> None:
        """SIGKILL, the trouble ends, and its leases run out."""
        self.stack.kill_part(part)
        self.stack.well()
        self.recorder.release()
        self.stack.answering(part)
        self.stack.advance("firestore", 60)

    def assert_right(self, *i_events: int) -> list[EventHistory]:
        """Finished once; the systems are as PortaBilling; ESPF has heard what the history says."""
        histories = self.stack.all_finished(i_events)
        wait_for(self.quiet, 90, "nothing to be left in Pub/Sub")
        for i_event, history in zip(i_events, histories, strict=True):
            assert len(self.stack.histories(i_event)) == 1, "a second history entry"
            assert {each.handler for each in history.deliveries} == HANDLERS
            for each in history.deliveries:
                assert Outcome(str(each.outcome)).final, history
                assert each.outcome not in (Outcome.REJECTED, Outcome.EXPIRED), history
        assert self.row()["status"] == self.wanted(), histories
        received = self.recorder.of(self.i_account)
        assert received[-1].account["blocked"] is (self.wanted() == "barred"), histories
        self.stack.tick()
        assert self.stack.statuses(self.i_account) == {"Database": "OK", "CRM": "OK"}
        return histories

    def quiet(self) -> bool:
        self.stack.hurry()
        return self.stack.backlog() == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("killed")
    database = DATABASE | {"call_timeout_seconds": SECONDS}
    with Recorder() as recorder:
        handlers = [database, webhook(recorder.url, call_timeout_seconds=SECONDS)]
        with WholeStack(folder / "state", configuration(folder, handlers)) as stack:
            i_account = stack.new_account(stack.new_card()["i_sim_card"])
            stack.send_paused(True)  # the webhooks are the test's
            yield Place(stack, recorder, i_account)


@pytest.fixture(autouse=True)
def well(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "place" in request.fixturenames:
        place: Place = request.getfixturevalue("place")
        place.recorder.release()
        place.recorder.answer = lambda _: 200
        place.stack.continue_part("pubsub")
        place.stack.well()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Nobody else can write to an SQLite database meanwhile."""
    with closing(sqlite3.connect(file, timeout=20, isolation_level=None)) as database:
        database.execute("begin immediate")
        yield
        database.execute("rollback")


# ---- ingress ---------------------------------------------------------------------------------


def test_ingress_before_the_publish_is_confirmed(place: Place) -> None:
    i_event, variables = place.change()
    place.stack.stop_part("pubsub")
    answer = place.in_background(variables)
    place.reached(lambda: place.stack.unread("pubsub") > 0, "the publish is on its way")
    place.stack.kill_part("ingress")
    assert answer.result(30) is None, "200 before Pub/Sub confirmed"
    place.stack.continue_part("pubsub")
    place.send_until_accepted(variables)
    place.assert_right(i_event)


def test_ingress_after_the_publish_before_the_answer(place: Place) -> None:
    i_event, variables = place.change()
    place.stack.pubsub_faults("espf-events", publish_answer_lost=1.0)
    answer = place.in_background(variables)
    place.reached(lambda: place.state(i_event), "it is published")
    place.stack.kill_part("ingress")
    assert answer.result(30) != 200
    place.stack.well()
    place.send_until_accepted(variables)
    (history,) = place.assert_right(i_event)
    writes = [r for d in history.deliveries for r in d.results if r["result"] == "written"]
    assert len(writes) == 2, "one for each handler"


# ---- enrichment ------------------------------------------------------------------------------


def test_enrichment_before_the_history_entry(place: Place) -> None:
    place.stack.firestore_faults(delay_seconds=SLOW, collection_group="events")
    i_event, variables = place.change()
    assert place.send(variables) == 200
    place.reached(lambda: any(f["in_flight"] for f in place.stack.figures()), "it is pushed")
    place.killed("enrichment")
    place.assert_right(i_event)


def test_enrichment_during_the_read(place: Place) -> None:
    before = len(place.calls("Account/get_account_info"))
    place.stack.portabilling_fault("hang", seconds=SLOW, methods=["Account/*"])
    i_event = place.sent()
    place.reached(
        lambda: len(place.calls("Account/get_account_info")) > before, "PortaBilling is asked"
    )
    place.killed("enrichment")
    place.assert_right(i_event)


def test_enrichment_after_the_read_before_the_publish(place: Place) -> None:
    before = len(place.calls("Account/get_account_info"))
    place.stack.pubsub_faults("enriched-events", publish_unavailable=1.0)
    i_event = place.sent()

    def read() -> bool:
        calls = place.calls("Account/get_account_info")
        return len(calls) > before and calls[-1]["status"] == 200

    place.reached(read, "PortaBilling has answered")
    assert place.state(i_event) == "received"
    place.killed("enrichment")
    place.assert_right(i_event)


def test_enrichment_after_the_publish_before_it_knows(place: Place) -> None:
    before = len(place.recorder.received)
    place.stack.pubsub_faults("enriched-events", publish_answer_lost=1.0)
    i_event = place.sent()
    place.reached(lambda: len(place.recorder.received) > before, "the event is delivered")
    assert place.state(i_event) == "received"
    place.killed("enrichment")
    place.assert_right(i_event)


def test_enrichment_after_the_publish_before_the_record(place: Place) -> None:
    before = len(place.recorder.received)
    reads = len(place.calls("Account/get_account_info"))
    place.stack.portabilling_fault("hang", seconds=SLOW, methods=["Account/*"])
    i_event = place.sent()
    place.reached(lambda: len(place.calls("Account/get_account_info")) > reads, "the read")
    place.stack.firestore_faults(delay_seconds=SLOW, collection_group="events")
    requests.delete(f"{place.stack.description['sandbox']['url']}/sandbox/faults", timeout=10)
    place.reached(lambda: len(place.recorder.received) > before, "the event is delivered")
    place.killed("enrichment")
    place.assert_right(i_event)


# ---- a handler -------------------------------------------------------------------------------


def test_a_handler_during_the_external_call(place: Place) -> None:
    before = len(place.recorder.received)
    place.recorder.hang()
    i_event = place.sent()
    place.reached(lambda: len(place.recorder.received) > before, "the system is called")
    place.killed("recorder")
    histories = place.assert_right(i_event)
    ours = {each.event_id for each in place.recorder.received[before:]}
    assert ours == {histories[0].event_id}


def test_the_database_handler_before_its_write(place: Place) -> None:
    with locked(place.stack.state / "subscribers.db"):
        i_event = place.sent()
        place.reached(lambda: lease(place), "the resource is taken")
        place.stack.kill_part("subscribers")
    place.killed("subscribers")
    place.assert_right(i_event)


def test_the_database_handler_between_its_write_and_the_ledger(place: Place) -> None:
    before = place.row()["status"]
    with locked(place.stack.state / "subscribers.db"):
        i_event = place.sent()
        place.reached(lambda: lease(place), "the resource is taken")
        place.stack.firestore_faults(delay_seconds=SLOW, collection_group="deliveries")
    place.reached(lambda: place.row()["status"] != before, "the row is written")
    place.killed("subscribers")
    assert place.outcome(i_event, "subscribers") is None, "the ledger was to be too late"
    place.assert_right(i_event)


def test_the_webhook_handler_between_its_call_and_the_ledger(place: Place) -> None:
    def answer(_: Received) -> int:
        place.stack.firestore_faults(delay_seconds=SLOW, collection_group="deliveries")
        return 200

    before = len(place.recorder.received)
    place.recorder.answer = answer
    i_event = place.sent()
    place.reached(
        lambda: any(each.answered for each in place.recorder.received[before:]), "it was answered"
    )
    place.recorder.answer = lambda _: 200
    place.killed("recorder")
    assert place.outcome(i_event, "recorder") is None, "the ledger was to be too late"
    place.assert_right(i_event)


def test_a_handler_between_the_ledger_and_the_status(place: Place) -> None:
    """Of an account that ESPF has not heard of yet."""
    stack = place.stack
    stack.portabilling_fault("hang", seconds=SLOW, methods=["espf/status"])
    posted = len(place.calls("espf/status"))
    other = stack.add_account(stack.new_card()["i_sim_card"])["i_account"]
    i_event = 990001
    variables = {"i_env": 1, "i_event": i_event, "i_account": other}
    assert place.send(variables) == 200
    place.reached(lambda: len(place.calls("espf/status")) >= posted + 2, "the statuses are posted")
    for handler in HANDLERS:
        assert place.outcome(i_event, handler) == Outcome.DELIVERED
        stack.kill_part(handler)
    for handler in HANDLERS:
        place.killed(handler)
    wait_for(place.quiet, 90, "the messages to be acknowledged")
    stack.tick()
    stack.all_finished([i_event])
    assert stack.statuses(other) == {"Database": "OK", "CRM": "OK"}
    assert len(stack.histories(i_event)) == 1
    assert len(place.recorder.of(other)) == 1, "delivered again for a status"


def test_retries_in_its_tick(place: Place) -> None:
    stack = place.stack
    stack.portabilling_fault("status_api_down")
    other = stack.add_account(stack.new_card()["i_sim_card"])["i_account"]
    i_event = 990002
    assert place.send({"i_env": 1, "i_event": i_event, "i_account": other}) == 200
    for handler in HANDLERS:
        place.reached(
            lambda handler=handler: place.outcome(i_event, handler),  # type: ignore[misc]
            "it is delivered",
        )
    wait_for(lambda: stack.backlog() == 0, 30, "it is acknowledged")
    stack.well()
    stack.portabilling_fault("hang", seconds=SLOW, methods=["espf/status"])
    posted = len(place.calls("espf/status"))
    with ThreadPoolExecutor(1) as pool:
        ticked = pool.submit(stack.tick)
        place.reached(lambda: len(place.calls("espf/status")) > posted, "the tick posts")
        place.killed("retries")
        assert ticked.exception(30) is not None
    stack.tick()
    stack.all_finished([i_event])
    assert stack.statuses(other) == {"Database": "OK", "CRM": "OK"}


@pytest.mark.parametrize("what", ["worker", "master"])
def test_half_of_a_function(place: Place, what: str) -> None:
    """The web server's worker alone, or its master alone: the other half must not stay behind."""
    stack = place.stack
    place.recorder.hang()
    before = len(place.recorder.received)
    i_event = place.sent()
    place.reached(lambda: len(place.recorder.received) > before, "the system is called")
    stack.kill_half("recorder", what)
    place.recorder.release()
    stack.answering("recorder")
    stack.advance("firestore", 60)
    place.assert_right(i_event)
    place.assert_right(place.sent())


# ---- the services below, and everything at once ----------------------------------------------


class Load:
    """Webhooks from several threads, each sent until it is accepted, as ESPF does."""

    def __init__(self, place: Place, i_events: range) -> None:
        self._place, self._i_events = place, i_events
        self.accepted: list[int] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(4)
        self._sent = [self._pool.submit(self._send, i_event) for i_event in self._i_events]
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for sent in self._sent:
            sent.result()

    def _send(self, i_event: int) -> None:
        account = {"i_account": self._place.i_account}
        self._place.send_until_accepted({"i_env": 1, "i_event": i_event, **account})
        self.accepted.append(i_event)


@pytest.mark.parametrize("service", ["pubsub", "firestore"])
def test_a_service_under_load(place: Place, service: str) -> None:
    first = 910000 if service == "pubsub" else 920000
    with Load(place, range(first, first + 40)) as load:
        place.reached(lambda: len(load.accepted) > 8, "some are accepted")
        place.change()
        place.stack.kill_part(service)
        place.reached(lambda: len(load.accepted) > 20, "it goes on")
        place.stack.kill_part(service)
    place.stack.answering(service)
    place.stack.advance("firestore", 60)
    place.assert_right(*load.accepted)


def test_everything_at_once_and_a_fresh_start_on_the_same_state(place: Place) -> None:
    stack = place.stack
    place.recorder.hang()
    accepted: list[int] = []
    for i_event in range(930000, 930025):
        variables = {"i_env": 1, "i_event": i_event, "i_account": place.i_account}
        assert place.send(variables) == 200
        accepted.append(i_event)
    place.change()  # the last state, which the accepted events shall still bring
    stack.kill()
    place.recorder.release()
    before = json.loads((stack.state / "secrets.json").read_text())
    stack.start()
    assert json.loads((stack.state / "secrets.json").read_text()) == before
    stack.advance("firestore", 60)
    accepted.append(place.sent())
    place.assert_right(*accepted)


def lease(place: Place) -> bool:
    """Whether somebody holds the account's row."""
    store = place.stack.running.store
    found = store.read(store.resource("subscribers", str(place.i_account)))
    return bool(found and found.get("lease"))
