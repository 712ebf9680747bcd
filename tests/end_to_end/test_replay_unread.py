"""A replay for one handler of an event that PortaBilling could not be read for yet."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.outcome import Outcome
from nsps_testing.waiting import wait_for

from tests.end_to_end.test_console import Console
from tests.end_to_end.whole_stack import DATABASE, SIMS, WholeStack, configuration

pytestmark = pytest.mark.timeout(240)

PAST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    folder = tmp_path_factory.mktemp("replay")
    with WholeStack(folder / "state", configuration(folder, [DATABASE, SIMS])) as made:
        yield made


@pytest.fixture
def i_account(stack: WholeStack) -> int:
    return stack.new_account(stack.new_card()["i_sim_card"])


def blocked_unread(stack: WholeStack, i_account: int) -> str:
    """An account is blocked, and the first read of PortaBilling for it fails; its event_id."""
    stack.portabilling_fault("fail", percent=100)
    done = stack.sandbox.do("block_account", i_account=i_account)
    (i_event,) = [event["i_event"] for event in done["events"]]

    def failed() -> EventHistory | None:
        found = stack.histories(i_event)
        return found[0] if found and found[0].retry else None

    history = wait_for(failed, 30, "the first read to fail")
    assert isinstance(history, EventHistory)
    return history.event_id


def event_history_of(stack: WholeStack, event_id: str) -> EventHistory:
    (history,) = stack.histories(event_id)
    return history


def replay_of(stack: WholeStack, event_id: str, handler: str) -> Delivered:
    """The event's first replay, once it is delivered."""

    def done() -> Delivered | None:
        runs = [
            d
            for d in event_history_of(stack, event_id).deliveries
            if d.run and d.handler == handler
        ]
        return runs[0] if runs and runs[0].final else None

    found = wait_for(done, 30, f"the replay for {handler} to end")
    assert isinstance(found, Delivered)
    return found


def held(stack: WholeStack, file: str, i_account: int) -> str:
    query = f"select status from subscribers where i_account = {i_account}"
    return str(stack.rows(file, query)[0]["status"])


def explained(console: Console, event_id: str) -> str:
    (explanation,) = console.get(f"events/{event_id}")["explanations"]
    return "\n".join(explanation["waiting"])


def until_parked(stack: WholeStack, event_id: str) -> None:
    """All attempts at enrichment fail."""

    def parked() -> bool:
        stack.advance("pubsub", 601)
        return event_history_of(stack, event_id).state == Outcome.PARKED

    wait_for(parked, 120, "the event to be parked")


def test_a_replay_inside_the_back_off_leaves_the_event_to_come_to_the_other_handler(
    stack: WholeStack, i_account: int
) -> None:
    event_id = blocked_unread(stack, i_account)
    stack.well()
    console = Console(stack)
    console.finished(console.start("replays", event=event_id, handler="subscribers"))
    assert replay_of(stack, event_id, "subscribers").outcome == Outcome.DELIVERED
    assert held(stack, "subscribers.db", i_account) == "barred"
    for history in stack.all_finished([event_id]):
        mine = {d.handler: d.outcome for d in history.deliveries if not d.run}
        assert mine == {"subscribers": Outcome.UNCHANGED, "sims": Outcome.DELIVERED}
    assert held(stack, "sims.db", i_account) == "barred"
    assert stack.statuses(i_account) == {"Database": "OK", "Sims": "OK"}


def test_the_remedy_of_the_runbook_for_an_event_that_was_parked_unread(
    stack: WholeStack, i_account: int
) -> None:
    event_id = blocked_unread(stack, i_account)
    until_parked(stack, event_id)
    console = Console(stack)
    assert "PortaBilling is read again" in explained(console, event_id)
    stack.well()
    job = console.finished(console.start("replays", handler="sims", outcomes=["parked"]))
    assert job["found"] == {"sent": 1}
    assert replay_of(stack, event_id, "sims").outcome == Outcome.DELIVERED
    assert held(stack, "sims.db", i_account) == "barred"
    assert held(stack, "subscribers.db", i_account) == "active"
    assert "then it goes to subscribers, sims" in explained(console, event_id)

    parked = stack.running.store.parked(f"enrichment.{event_id}")
    parked.update({"next_try": PAST})
    assert stack.tick()["sent"] == 1
    (history,) = stack.all_finished([event_id])
    assert history.state == "enriched"
    assert held(stack, "subscribers.db", i_account) == "barred"


def test_an_event_that_expired_unread_is_expired_until_it_is_replayed(
    stack: WholeStack, i_account: int
) -> None:
    event_id = blocked_unread(stack, i_account)
    until_parked(stack, event_id)
    parked = stack.running.store.parked(f"enrichment.{event_id}")
    parked.update({"next_try": PAST, "last": True})
    assert stack.tick()["expired"] == 1
    history = event_history_of(stack, event_id)
    assert history.final and {d.outcome for d in history.deliveries} == {Outcome.EXPIRED}
    stack.well()
    stack.advance("firestore", 60)  # the lease of a status that was not answered
    stack.tick()
    assert stack.statuses(i_account) == {"Database": "FAILED", "Sims": "FAILED"}
    console = Console(stack)
    job = console.finished(console.start("replays", handler="sims", outcomes=["expired"]))
    assert job["found"] == {"sent": 1}
    assert replay_of(stack, event_id, "sims").outcome == Outcome.DELIVERED
    assert event_history_of(stack, event_id).final
    assert held(stack, "sims.db", i_account) == "barred"
    wait_for(
        lambda: stack.statuses(i_account) == {"Database": "FAILED", "Sims": "OK"},
        30,
        "PortaBilling to be told of the replay",
    )
    found = console.get("events?handler=sims&outcome=expired&limit=10")["events"]
    assert event_id not in {each["event_id"] for each in found}
    found = console.get("events?handler=subscribers&outcome=expired&limit=10")["events"]
    assert event_id in {each["event_id"] for each in found}
