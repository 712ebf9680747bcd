"""A system that takes orders now and answers later: the order manager in a process of its own.

Where the moment matters the manager is told to keep its answers to itself, and the test sends its
notifications for it, as they stand in TMF641.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import requests
from nsps.domain.outcome import Outcome
from nsps_local import order_manager
from nsps_testing.waiting import wait_for

from tests.end_to_end.whole_stack import WholeStack, configuration

pytestmark = pytest.mark.timeout(240)

TOKEN, CALLBACK_TOKEN = "orders-token-4711", "notification-token-4711"
ORDERS = "/tmf-api/serviceOrdering/v4"


def handler(url: str) -> dict[str, Any]:
    return {
        "name": "orders",
        "connector": "oms_tmf641",
        "events": ["SIM/*", "Account/*", "Account/*/*"],
        "group": "HSS",
        "call_timeout_seconds": 5,
        "settings": {"url": url, "allow_http": True},
        "secrets": {"credentials": "oms-token", "callback": "oms-callback"},
    }


def plain_handler(url: str) -> dict[str, Any]:
    """The same manager by its plain form, for events of its own: it cannot be asked."""
    settings = {"url": f"{url}/orders", "profile": "plain", "allow_http": True}
    more = {"name": "plain", "events": ["Subscriber/*"], "group": "PCRF", "settings": settings}
    return handler(url) | more


@dataclass
class Place:
    """The stack, the order manager, and accounts to order for."""

    stack: WholeStack
    manager: str

    def conduct(self, behaviour: str, **more: Any) -> None:
        body = {"behaviour": behaviour, "delay": 0.02, **more}
        assert requests.post(f"{self.manager}/control", json=body, timeout=10).ok

    @property
    def seen(self) -> dict[str, Any]:
        """Everything the manager has: orders, services, notifications."""
        found: dict[str, Any] = requests.get(f"{self.manager}/control", timeout=10).json()
        return found

    def account(self, behaviour: str = "normal") -> tuple[int, str, list[int]]:
        """A new account with a card, ordered under a behaviour: i_account, service, events."""
        self.conduct(behaviour)
        card = self.stack.new_card()
        wait_for(lambda: self.read_of(card["i_event"]), 30, "the card's own event to be read")
        done = self.stack.add_account(card["i_sim_card"])
        return done["i_account"], f"imsi:{card['imsi']}", self.i_events(done)

    def read_of(self, i_event: int) -> bool:
        """Whether an event's snapshot is read."""
        histories = self.stack.histories(i_event)
        return bool(histories) and histories[0].state == "enriched"

    def settled_account(self) -> tuple[int, str]:
        """A new account whose order has been answered."""
        i_account, service, i_events = self.account()
        self.stack.all_finished(i_events)
        return i_account, service

    def i_events(self, done: dict[str, Any]) -> list[int]:
        """The events of a change that the handler wants."""
        return [e["i_event"] for e in done["events"] if e["event_type"].startswith("SIM/")]

    def block(self, i_account: int, on: bool = True) -> int:
        operation = "block_account" if on else "unblock_account"
        return self.i_events(self.stack.sandbox.do(operation, i_account=i_account))[0]

    def orders(self, service: str) -> list[dict[str, Any]]:
        """The manager's orders for a service, oldest first."""
        found = self.seen["orders"]
        return [o for o in found if o["serviceOrderItem"][0]["service"].get("id") == service]

    def ordered(self, service: str, number: int = 1) -> dict[str, Any]:
        """The newest order for a service, once there are so many."""

        def there() -> dict[str, Any] | None:
            orders = self.orders(service)
            return orders[-1] if len(orders) == number else None

        found: dict[str, Any] = wait_for(there, 30, f"{number} orders for {service}")
        return found

    def outcome(self, i_event: int) -> str | None:
        histories = self.stack.histories(i_event)
        return histories[0].deliveries[0].outcome if histories else None

    def wait_outcome(self, i_event: int, outcome: Outcome) -> None:
        wait_for(lambda: self.outcome(i_event) == outcome, 30, f"{i_event} to be {outcome}")

    def posted(self, i_account: int) -> list[str]:
        """What ESPF has been told, oldest first."""
        found = self.stack.get(f"/sandbox/statuses?i_account={i_account}")["statuses"]
        return [each["status"] for each in found]

    def wait_told(self, i_account: int, *statuses: str) -> None:
        wait_for(
            lambda: self.posted(i_account) == list(statuses),
            30,
            f"ESPF to hear {statuses}, not {self.posted(i_account)}",
        )

    def notify(
        self, order: dict[str, Any], state: str, token: str = CALLBACK_TOKEN, **more: Any
    ) -> int:
        """A notification as the manager would send it; how it was answered."""
        kind = "serviceOrderStateChangeEvent"
        body = {
            "eventId": str(uuid.uuid4()),
            "eventTime": datetime.now(UTC).isoformat(),
            "eventType": "ServiceOrderStateChangeEvent",
            "event": {"serviceOrder": {**order, "state": state}},
            **more,
        }
        url = f"{self.stack.description['callbacks']['url']}/orders/listener/{kind}"
        headers = {"Authorization": f"Bearer {token}"}
        return requests.post(url, json=body, headers=headers, timeout=30).status_code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("asynchronous")
    secrets = folder / "secrets.json"
    secrets.write_text(json.dumps({"oms-token": TOKEN, "oms-callback": CALLBACK_TOKEN}))
    arguments = ("--token", TOKEN, "--callback-token", CALLBACK_TOKEN)
    with order_manager.running(*arguments) as url:
        with WholeStack(
            folder / "state", configuration(folder, [handler(url), plain_handler(url)]), secrets
        ) as stack:
            callback = f"{stack.description['callbacks']['url']}/orders"
            answer = requests.post(
                f"{url}{ORDERS}/hub",
                json={"callback": callback},
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=10,
            )
            assert answer.status_code == 201
            yield Place(stack, url)


def test_accepted_is_told_as_in_progress_and_the_late_answer_as_ok(place: Place) -> None:
    i_account, service, (i_event,) = place.account("never")
    order = place.ordered(service)
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    place.wait_told(i_account, "IN_PROGRESS")
    assert order["serviceOrderItem"][0]["action"] == "add"
    assert place.notify(order, "inProgress") == 204
    assert place.posted(i_account) == ["IN_PROGRESS"]
    assert place.notify(order, "completed") == 204
    place.wait_outcome(i_event, Outcome.DELIVERED)
    place.wait_told(i_account, "IN_PROGRESS", "OK")
    assert len(place.orders(service)) == 1


@pytest.mark.parametrize("behaviour", ["fail", "reject", "partial", "cancel"])
def test_an_answer_that_it_failed_is_told_as_failed(place: Place, behaviour: str) -> None:
    i_account, _, (i_event,) = place.account(behaviour)
    history = place.stack.finished(i_event)
    assert history.deliveries[0].outcome == Outcome.REJECTED
    assert history.deliveries[0].errors[0].strip()
    assert place.posted(i_account)[-1] == "FAILED"


@pytest.mark.parametrize(
    "behaviour", ["normal", "early", "duplicate", "out_of_order", "unknown", "noise"]
)
def test_however_the_notifications_come(place: Place, behaviour: str) -> None:
    i_account, service, (i_event,) = place.account(behaviour)
    history = place.stack.finished(i_event)
    assert history.deliveries[0].outcome == Outcome.DELIVERED
    # every notification of the order was taken, also those that come after the last word
    wait_for(lambda: all_told(place, service), 30, "the last notification")
    assert place.outcome(i_event) == Outcome.DELIVERED
    posted = place.posted(i_account)
    assert posted[-1] == "OK"
    assert posted in (["IN_PROGRESS", "OK"], ["OK"]), posted
    assert len(place.orders(service)) == 1


def all_told(place: Place, service: str) -> bool:
    """Whether the manager has sent all it means to send, and all was taken."""
    order = place.orders(service)[0]
    mine = [n for n in place.seen["notifications"] if order["id"] in json.dumps(n["body"])]
    expected = {"normal": 2, "early": 1, "duplicate": 4, "out_of_order": 2, "unknown": 2}
    wanted = expected.get(place.seen["conduct"]["behaviour"], 3)
    return len([n for n in mine if n["status"] == 204]) >= wanted


def test_a_late_contradiction_and_repetitions_change_nothing(place: Place) -> None:
    i_account, service, (i_event,) = place.account("never")
    order = place.ordered(service)
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert place.notify(order, "completed") == 204
    place.wait_told(i_account, "IN_PROGRESS", "OK")
    for state in ("completed", "failed", "inProgress", "completed"):
        assert place.notify(order, state, eventTime=past) == 204
    assert place.outcome(i_event) == Outcome.DELIVERED
    assert place.posted(i_account) == ["IN_PROGRESS", "OK"]
    # the history keeps what was answered
    store = place.stack.running.store
    (kept,) = [
        o for o in store.find(store.orders("orders").limit(500)) if o.get("order_id") == order["id"]
    ]
    said = [each["state"] for each in kept["answers"]]
    assert said == ["done", "done", "failed", "progress", "done"]


def test_an_answer_to_an_order_that_nobody_made_is_taken_and_kept(place: Place) -> None:
    stranger = {"id": "SO-nobody", "externalId": str(uuid.uuid4()), "serviceOrderItem": []}
    assert place.notify(stranger, "completed") == 204
    store = place.stack.running.store
    found = [o for o in store.find(store.orders("orders").limit(500)) if "unknown" in o]
    assert any(each["unknown"] in ("SO-nobody", stranger["externalId"]) for each in found)


def test_a_notification_from_somebody_else_is_refused(place: Place) -> None:
    i_account, service, (i_event,) = place.account("never")
    order = place.ordered(service)
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    assert place.notify(order, "failed", token="another") == 401
    assert place.outcome(i_event) == Outcome.ACCEPTED
    assert place.notify(order, "completed") == 204
    place.wait_told(i_account, "IN_PROGRESS", "OK")


def test_one_open_order_at_a_time_and_the_newest_state_after_it(place: Place) -> None:
    i_account, service = place.settled_account()
    place.conduct("never")
    first = place.block(i_account)
    order = place.ordered(service, 2)
    place.wait_outcome(first, Outcome.ACCEPTED)
    later = [place.block(i_account, on=on) for on in (False, True, False)]
    for i_event in later:
        wait_for(lambda i_event=i_event: place.read_of(i_event), 30)  # type: ignore[misc]
    wait_for(lambda: place.stack.backlog() == 0, 30, "the later ones to wait without Pub/Sub")
    assert len(place.orders(service)) == 2, "a second order beside an open one"
    assert place.notify(order, "completed") == 204
    newest = place.ordered(service, 3)
    assert granted(newest) == "true", "the state that PortaBilling has now"
    wait_for(lambda: place.stack.backlog() == 0, 30, "all to be ordered or joined")
    assert len(place.orders(service)) == 3
    assert place.notify(newest, "completed") == 204
    histories = place.stack.all_finished([first, *later])
    outcomes = [history.deliveries[0].outcome for history in histories]
    assert outcomes[0] == Outcome.DELIVERED
    assert set(outcomes[1:]) <= {Outcome.DELIVERED, Outcome.UNCHANGED, Outcome.SUPERSEDED}
    assert place.stack.statuses(i_account) == {"HSS": "OK"}
    assert len(place.orders(service)) == 3


def test_the_next_state_is_ordered_although_the_open_order_failed(place: Place) -> None:
    i_account, service = place.settled_account()
    place.conduct("never")
    first = place.block(i_account)
    order = place.ordered(service, 2)
    place.wait_outcome(first, Outcome.ACCEPTED)
    second = place.block(i_account, on=False)
    wait_for(lambda: place.read_of(second), 30)
    wait_for(lambda: place.stack.backlog() == 0, 30)
    assert place.notify(order, "failed") == 204
    newest = place.ordered(service, 3)  # what the manager holds is in doubt: it is ordered again
    assert granted(newest) == "true"
    assert place.notify(newest, "completed") == 204
    histories = place.stack.all_finished([first, second])
    assert histories[1].deliveries[0].outcome == Outcome.DELIVERED
    assert place.stack.statuses(i_account) == {"HSS": "OK"}


def test_many_changes_end_with_what_portabilling_has(place: Place) -> None:
    i_account, service = place.settled_account()
    place.conduct("normal", delay=0.3)
    i_events = [
        place.block(i_account, on=on) for on in itertools.islice(itertools.cycle((True, False)), 7)
    ]
    place.stack.all_finished(i_events)
    assert place.seen["services"][service]["serviceGranted"] in (False, "false")
    assert place.stack.statuses(i_account) == {"HSS": "OK"}
    ends = [order["state"] for order in place.orders(service)]
    assert set(ends) == {"completed"}
    assert no_two_open(place.orders(service))


@pytest.mark.parametrize("when", ["before the answer is kept", "before ESPF is told"])
def test_callbacks_killed_while_it_takes_an_answer(place: Place, when: str) -> None:
    stack = place.stack
    i_account, service, (i_event,) = place.account("never")
    order = place.ordered(service)
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    place.wait_told(i_account, "IN_PROGRESS")
    posted = posts(stack)
    if when == "before ESPF is told":
        stack.portabilling_fault("hang", seconds=100, methods=["espf/status"])
    else:
        stack.stop_part("firestore")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(place.notify, order, "completed")
        if when == "before ESPF is told":
            wait_for(lambda: posts(stack) > posted, 30, "the post")
        else:
            wait_for(lambda: stack.unread("firestore") > 0, 30, "the question to Firestore")
        stack.kill_part("callbacks")
        stack.continue_part("firestore")
        stack.well()
        assert answer.exception(30) is not None, "an answer before it was taken in"
    stack.answering("callbacks")
    stack.advance("firestore", 60)
    if when == "before ESPF is told":
        stack.tick()  # nobody sends the notification again
    else:
        assert place.notify(order, "completed") == 204  # as the manager does
    stack.all_finished([i_event])
    assert place.outcome(i_event) == Outcome.DELIVERED
    assert place.posted(i_account)[-1] == "OK"


# ---- orders that are not answered in time ----------------------------------------------------


def late(place: Place, hours: float = 24.1) -> None:
    """The time that an order has is over, and the tick after that comes."""
    wait_for(lambda: place.stack.backlog() == 0, 30, "nothing to be under way")
    place.stack.advance("firestore", hours * 3600)
    place.stack.tick()


def kept(place: Place, order: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of an order."""
    store = place.stack.running.store
    found = store.find(store.orders("orders").limit(500))
    return next(each for each in found if each.get("order_id") == order["id"])


def reasons(place: Place, i_event: int) -> str:
    return "; ".join(place.stack.histories(i_event)[0].deliveries[0].errors)


def test_an_order_that_was_done_without_a_word_is_asked_for(place: Place) -> None:
    i_account, service, (i_event,) = place.account("silent")
    place.ordered(service)
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    place.wait_told(i_account, "IN_PROGRESS")
    wait_for(lambda: place.orders(service)[0]["state"] == "completed", 30, "it to be done")
    late(place, hours=23.8)
    assert place.outcome(i_event) == Outcome.ACCEPTED, "it has a day"
    late(place, hours=0.3)
    place.wait_outcome(i_event, Outcome.DELIVERED)
    place.wait_told(i_account, "IN_PROGRESS", "OK")
    assert len(place.orders(service)) == 1, "it was asked for, not ordered again"


def test_an_order_that_goes_on_for_thirty_days_has_failed_unless_it_is_done_later(
    place: Place,
) -> None:
    i_account, service, (i_event,) = place.account("never")
    order = place.ordered(service)
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    late(place)
    first = kept(place, order)["asked_at"]
    place.stack.tick()
    assert kept(place, order)["asked_at"] == first, "once an hour"
    late(place, hours=1.1)
    assert kept(place, order)["asked_at"] > first
    assert place.outcome(i_event) == Outcome.ACCEPTED
    late(place, hours=30 * 24)
    place.wait_outcome(i_event, Outcome.REJECTED)
    place.wait_told(i_account, "IN_PROGRESS", "FAILED")
    assert "the system has been at it for 31 days" in reasons(place, i_event)

    assert place.notify(order, "completed") == 204
    place.wait_outcome(i_event, Outcome.DELIVERED)
    place.wait_told(i_account, "IN_PROGRESS", "FAILED", "OK")
    assert [each["state"] for each in kept(place, order)["answers"]][-2:] == ["failed", "done"]


def test_an_order_that_cannot_be_asked_for_has_failed_unless_it_is_done_later(
    place: Place,
) -> None:
    """The plain form has no question."""
    i_account, _ = place.settled_account()
    place.conduct("never")
    before = place.posted(i_account)
    i_event = 940001
    sent = place.stack.send("Subscriber/Updated", i_env=1, i_event=i_event, i_account=i_account)
    assert sent.status_code == 200
    place.wait_outcome(i_event, Outcome.ACCEPTED)
    place.wait_told(i_account, *before, "IN_PROGRESS")
    late(place)
    place.wait_outcome(i_event, Outcome.REJECTED)
    place.wait_told(i_account, *before, "IN_PROGRESS", "FAILED")
    assert "the system did not answer within 24 hours" in reasons(place, i_event)

    (ordered,) = [o for o in place.seen["orders"] if o["externalId"] in plain_orders(place)]
    answer = requests.post(
        f"{place.stack.description['callbacks']['url']}/plain",
        json={"order": ordered["externalId"], "status": "done", "message": ""},
        headers={"Authorization": f"Bearer {CALLBACK_TOKEN}"},
        timeout=30,
    )
    assert answer.status_code == 204
    place.wait_outcome(i_event, Outcome.DELIVERED)
    place.wait_told(i_account, *before, "IN_PROGRESS", "FAILED", "OK")


def plain_orders(place: Place) -> set[str]:
    """The references of the orders in the plain form."""
    store = place.stack.running.store
    return {str(each["reference"]) for each in store.find(store.orders("plain").limit(500))}


def posts(stack: WholeStack) -> int:
    return len(stack.get("/sandbox/calls?method=espf/status")["calls"])


def no_two_open(orders: list[dict[str, Any]]) -> bool:
    """Whether each order was made after the one before it was completed."""
    return all(one["completionDate"] <= two["orderDate"] for one, two in pairwise(orders))


def granted(order: dict[str, Any]) -> str:
    values = order["serviceOrderItem"][0]["service"]["serviceCharacteristic"]
    return next(str(v["value"]).lower() for v in values if v["name"] == "serviceGranted")
