"""The history of an event, as what the flows really wrote reads, in each state it can be in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nsps.cloud.messages import ENRICHMENT, RawEventMessage
from nsps.cloud.store import Store
from nsps.connector.base import Enriched
from nsps.console.handlers import Handlers
from nsps.delivery import timeline
from nsps.delivery.history import History
from nsps.delivery.ledger.orders import LateAnswer, Orders
from nsps.delivery.resend import Resend
from nsps.delivery.timeline import Delivered, EventHistory, Timeline, Wanted, as_json, changes
from nsps.domain.event import SnapshotTime, owner_of
from nsps.domain.outcome import AnswerState, NoAnswer, Terminal, Transient
from nsps.domain.snapshot import PbData
from nsps.flows.retries import Retries, Upkeep
from nsps.flows.schedules import Schedules
from nsps.runtime.settings import HandlerSummary, PushSchedule, RetrySettings
from nsps.transport.http import Http

from tests.unit.connector.systems import IMSI, REDACTOR, Box, Clerk, Kit, Letters, new_store
from tests.unit.flow_parts import Topics, dead_letter, raw


def summary(name: str, group: str | None, **more: Any) -> HandlerSummary:
    return HandlerSummary(name=name, connector="x", events=("SIM/*",), group=group, **more)


class Rig:
    """Three handlers of each kind, and an event's way through them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.box, self.letters, self.clerk = Box(), Letters(), Clerk()
        self.hss = Kit(store, self.box, handler="hss", group="HSS")
        self.mail = Kit(store, self.letters, handler="mail", group=None)
        self.oms = Kit(store, self.clerk, handler="oms", group="PCRF")
        self.history = History(store, lambda: REDACTOR)
        self.timeline = Timeline(
            store, {each.name: each for each in (summary("hss", "HSS"), summary("oms", "PCRF"))}
        )
        rest: Any = None
        publisher: Any = Topics()
        self.retries = Retries(
            "demo",
            [summary("hss", "HSS")],
            store,
            Resend(lambda: publisher, "t"),
            Upkeep(self.hss.poster, rest, rest, Schedules(Handlers([], {}, Http()))),
        )

    def opened(self, *handlers: str, **variables: Any) -> RawEventMessage:
        message = raw(variables={"i_event": 1, "i_account": 9} | variables)
        event = message.event
        self.history.open(message, event, handlers)
        return message

    def enriched(self, message: RawEventMessage, second: int = 3, **account: Any) -> Enriched:
        event = message.event
        known = {"i_account": 9, "blocked": False, "email": "ann@example.net"} | account
        pb = PbData.from_contract({"account_info": known, "sim_info": {"imsi": IMSI}})
        t = SnapshotTime(f"2026-11-21T02:10:{second:02}.000000Z/{message.event_id}")
        owner = owner_of(event, message.event_id)
        self.history.enriched(message, owner, t, pb, read_ms=12.5)
        return Enriched(message.event_id, event, owner, t, pb, "c", "u")

    def event_history(self, message: RawEventMessage) -> EventHistory:
        (event_history,) = self.timeline.find(message.event_id)
        json.dumps(as_json(event_history))
        return event_history

    def of(self, message: RawEventMessage, handler: str = "hss") -> Delivered:
        return next(d for d in self.event_history(message).deliveries if d.handler == handler)


def came_to(rig: Rig, handler: str, outcome: str) -> list[EventHistory]:
    wanted = Wanted(handler=handler, outcomes=frozenset({outcome}))
    return list(rig.timeline.page(wanted, 9).histories)


@pytest.fixture
def rig(target: str) -> Rig:
    return Rig(new_store(target))


def test_received(rig: Rig) -> None:
    message = rig.opened("hss", "mail")
    event_history = rig.event_history(message)
    assert (event_history.state, event_history.final, event_history.enriched_at) == (
        "received",
        False,
        None,
    )
    assert (event_history.event_type, event_history.i_event, event_history.i_account) == (
        "SIM/Updated",
        "1",
        9,
    )
    assert event_history.received_at == message.received_at
    assert event_history.trace_id == message.trace.trace_id
    assert [(d.handler, d.outcome, d.final) for d in event_history.deliveries] == [
        ("hss", None, False),
        ("mail", None, False),
    ]
    assert event_history.deliveries[0].espf == {
        "group": "HSS",
        "status": None,
        "sent": False,
        "of_this": False,
    }
    assert event_history.deliveries[1].espf is None


def test_enrichment_that_fails(rig: Rig) -> None:
    message = rig.opened("hss")
    rig.history.failed(message, message.event, ["hss"], "PortaBilling is away, password=hunter2")
    event_history = rig.event_history(message)
    assert event_history.retry is not None and event_history.retry["error"].endswith("password=***")
    assert datetime.fromisoformat(event_history.retry["at"])
    rig.enriched(message)
    read = rig.event_history(message)
    assert (read.retry, read.unread) == (
        event_history.retry,
        False,
    )  # what failed before stays visible


def test_unhandled(rig: Rig) -> None:
    event_history = rig.event_history(rig.opened())
    assert (event_history.state, event_history.final, event_history.deliveries) == (
        "unhandled",
        True,
        (),
    )


def test_delivered_to_all(rig: Rig) -> None:
    message = rig.opened("hss", "mail")
    event = rig.enriched(message)
    rig.hss.deliver(event)
    assert not rig.event_history(message).final, "one is still open"
    rig.mail.deliver(event)
    event_history = rig.event_history(message)
    assert (event_history.state, event_history.final, event_history.read_ms) == (
        "enriched",
        True,
        12.5,
    )
    assert event_history.snapshot_t == event.t
    hss, mail = event_history.deliveries
    assert (hss.outcome, hss.attempts, hss.next_try) == ("delivered", 1, None)
    assert hss.results[0]["action"] == "create"
    assert hss.begun_at and hss.finished_at and hss.begun_at <= hss.finished_at
    assert hss.espf is not None and hss.espf["sent_at"]
    assert (hss.espf["status"], hss.espf["sent"], hss.espf["of_this"]) == ("OK", True, True)
    assert (mail.outcome, mail.espf, mail.summary) == (
        "delivered",
        None,
        "letter about SIM/Updated",
    )


def test_unchanged(rig: Rig) -> None:
    rig.hss.deliver(rig.enriched(rig.opened("hss", i_event=1)))
    message = rig.opened("hss", i_event=2)
    rig.hss.deliver(rig.enriched(message, 4))
    assert (rig.of(message).outcome, rig.of(message).final) == ("unchanged", True)


@pytest.mark.parametrize("error", [Transient("busy, token=abcdefgh"), NoAnswer("token=abcdefgh")])
def test_retrying(rig: Rig, error: Exception) -> None:
    message = rig.opened("hss")
    rig.box.seen.before = [None, error]
    rig.hss.deliver(rig.enriched(message))
    seen = rig.of(message)
    assert (seen.outcome, seen.final, seen.attempts) == ("retrying", False, 1)
    assert seen.retry is not None and seen.next_try is not None
    assert "token=***" in seen.retry["error"]
    gap = datetime.fromisoformat(seen.next_try) - datetime.fromisoformat(seen.retry["at"])
    assert gap == timedelta(seconds=10)
    assert seen.espf is not None and (seen.espf["status"], seen.espf["sent"]) == ("RETRY", True)


def test_a_delivery_waits_since_its_first_attempt(rig: Rig) -> None:
    message = rig.opened("hss")
    event = rig.enriched(message)
    seen = []
    for _ in range(3):
        rig.box.seen.before = [None, Transient("busy")]
        rig.hss.deliver(event)
        seen.append(rig.of(message))
    first, *_, last = seen
    assert (first.begun_at, first.failures[0]["at"]) == (
        last.begun_at,
        last.failures[0]["first_at"],
    )
    assert last.last_at and first.last_at and last.last_at > first.last_at
    assert [failure["times"] for failure in last.failures] == [3]


def test_the_next_attempt_is_by_the_handlers_own_schedule(rig: Rig) -> None:
    push = PushSchedule(minimum=100, maximum=300)
    own = summary("hss", "HSS", retries=RetrySettings(push=push))
    rig.timeline = Timeline(rig.store, {"hss": own})
    message = rig.opened("hss")
    event = rig.enriched(message)
    for attempt, gap in ((1, 100), (2, 200), (3, 300), (4, 300)):
        rig.box.seen.before = [None, Transient("busy")]
        rig.hss.deliver(event)
        seen = rig.of(message)
        assert seen.attempts == attempt and seen.retry is not None and seen.next_try is not None
        at = datetime.fromisoformat(seen.retry["at"])
        assert datetime.fromisoformat(seen.next_try) - at == timedelta(seconds=gap)


def test_the_next_attempt_is_not_before_the_system_asked_for_it(rig: Rig) -> None:
    message = rig.opened("hss")
    rig.box.seen.before = [None, Transient("busy", retry_after=3600)]
    rig.hss.deliver(rig.enriched(message))
    seen = rig.of(message)
    assert seen.retry is not None and seen.next_try is not None
    gap = datetime.fromisoformat(seen.next_try) - datetime.fromisoformat(seen.retry["at"])
    assert timedelta(seconds=3590) < gap < timedelta(seconds=3610)


def test_rejected(rig: Rig) -> None:
    message = rig.opened("hss")
    rig.box.seen.before = [None, Terminal("no such profile")]
    rig.hss.deliver(rig.enriched(message))
    seen = rig.of(message)
    assert (seen.outcome, seen.final, seen.errors) == ("rejected", True, ("no such profile",))
    assert seen.espf is not None and seen.espf["status"] == "FAILED"


def test_superseded(rig: Rig) -> None:
    newer, older = rig.opened("hss", i_event=1), rig.opened("hss", i_event=2)
    rig.hss.deliver(rig.enriched(newer, 5))
    rig.hss.deliver(rig.enriched(older, 4))
    seen = rig.of(older)
    assert (seen.outcome, seen.final, seen.superseded_by) == ("superseded", True, newer.event_id)
    assert seen.espf is not None
    assert (seen.espf["status"], seen.espf["of_this"]) == ("OK", False)


def test_accepted_then_done(rig: Rig) -> None:
    message = rig.opened("oms")
    rig.oms.deliver(rig.enriched(message))
    seen = rig.of(message, "oms")
    assert (seen.outcome, seen.final) == ("accepted", False)
    assert seen.orders == (rig.clerk.orders[0].reference,)
    assert seen.espf is not None and seen.espf["status"] == "IN_PROGRESS"
    for post in Orders(rig.store).record("oms", LateAnswer("so-1", AnswerState.DONE)).posts:
        rig.oms.poster.send(post)
    seen = rig.of(message, "oms")
    assert (seen.outcome, seen.final) == ("delivered", True)
    assert seen.espf is not None and seen.espf["status"] == "OK"


def test_waiting_for_the_answer_to_an_earlier_order(rig: Rig) -> None:
    rig.oms.deliver(rig.enriched(rig.opened("oms", i_event=1)))
    message = rig.opened("oms", i_event=2)
    rig.oms.deliver(rig.enriched(message, 4, blocked=True))
    seen = rig.of(message, "oms")
    assert not seen.final and seen.waits_for == "the answer to an earlier order"


def test_parked_by_a_handler_and_delivered_later(rig: Rig) -> None:
    message = rig.opened("hss")
    event = rig.enriched(message)
    rig.box.seen.before = [None, Transient("off")]
    rig.hss.deliver(event)
    rig.retries.park(dead_letter(message, "hss"))
    seen = rig.of(message)
    assert (seen.outcome, seen.final) == ("parked", False)
    assert seen.next_try is not None and seen.next_try > datetime.now(UTC).isoformat()
    rig.hss.deliver(event)
    seen = rig.of(message)
    assert (seen.outcome, seen.final, seen.next_try) == ("delivered", True, None)


def test_parked_by_enrichment_and_enriched_later(rig: Rig) -> None:
    message = rig.opened("hss")
    rig.retries.park(dead_letter(message, ENRICHMENT))
    event_history = rig.event_history(message)
    assert (event_history.state, event_history.final) == (
        "parked",
        False,
    ) and event_history.next_try
    assert (event_history.deliveries[0].outcome, event_history.deliveries[0].next_try) == (
        "parked",
        event_history.next_try,
    )
    assert came_to(rig, "hss", "parked") == [event_history]
    rig.hss.deliver(rig.enriched(message))
    event_history = rig.event_history(message)
    assert (event_history.state, event_history.final, event_history.next_try) == (
        "enriched",
        True,
        None,
    )


def test_expired_unread_and_replayed_for_one_handler(rig: Rig) -> None:
    """The event stays expired for the others; what is replayed has its own outcome."""
    message = rig.opened("hss", "mail")
    reason = {"errors": ["not delivered in 30 days: HTTP 502"]}
    rig.store.event(message.event_id).set({"state": "expired", **reason}, merge=True)
    event_history = rig.event_history(message)
    assert [(d.handler, d.outcome) for d in event_history.deliveries] == [
        ("hss", "expired"),
        ("mail", "expired"),
    ]
    assert event_history.final and event_history.deliveries[0].errors == tuple(reason["errors"])
    run = {"n": 1, "job": "j", "at": datetime.now(UTC), "only": False}
    rig.store.event(message.event_id).set({"runs": {"hss": run}}, merge=True)
    assert not rig.event_history(message).final
    assert came_to(rig, "hss", "expired") == []
    rig.hss.deliver(replace(rig.enriched(replace(message, handler="hss", run=1)), run=1))
    event_history = rig.event_history(message)
    assert [(d.handler, d.run, d.outcome) for d in event_history.deliveries] == [
        ("hss", 0, "expired"),
        ("mail", 0, "expired"),
        ("hss", 1, "delivered"),
    ]
    assert event_history.final and event_history.state == "expired"
    assert came_to(rig, "hss", "delivered") == [event_history]
    assert came_to(rig, "mail", "expired") == [event_history]


def test_a_status_that_espf_has_not_heard_or_refuses(rig: Rig) -> None:
    message = rig.opened("hss")
    rig.hss.espf.faults = [Transient("ESPF is away"), Terminal("no such group")]
    rig.hss.deliver(rig.enriched(message))
    seen = rig.of(message).espf
    assert seen is not None
    assert (seen["status"], seen["sent"], seen["refused"]) == ("OK", False, None)
    rig.hss.poster.send_due()
    seen = rig.of(message).espf
    assert seen is not None and (seen["sent"], seen["refused"]) == (False, "no such group")


def test_events_are_found_by_either_name_by_account_and_by_age(rig: Rig) -> None:
    messages = [rig.opened("hss", i_event=n) for n in (5, 6)]
    other = rig.opened("hss", i_event=5, i_env=2)
    names = [message.event_id for message in messages]
    assert [s.event_id for s in rig.timeline.find("6")] == [names[1]]
    assert {s.event_id for s in rig.timeline.find("5")} == {names[0], other.event_id}
    assert [s.event_id for s in rig.timeline.where("i_account", 9)] == [*names, other.event_id]
    latest = [s.event_id for s in rig.timeline.latest(2)]
    assert latest == [other.event_id, names[1]]


@pytest.mark.parametrize("name", ["nothing", "a/b", "0"])
def test_what_is_not_there_is_not_found(rig: Rig, name: str) -> None:
    rig.opened("hss")
    assert rig.timeline.find(name) == []


def test_what_has_expired_is_not_shown_though_firestore_keeps_it_a_while(rig: Rig) -> None:
    message = rig.opened("hss")
    past = datetime.now(UTC) - timedelta(minutes=1)
    rig.store.event(message.event_id).set({"expire_at": past}, merge=True)
    assert rig.timeline.find(message.event_id) == []
    assert rig.timeline.latest(10) == []


def test_events_are_searched_for_by_what_became_of_them(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "_SEARCH_PAGE", 2)
    done, refused = rig.opened("hss", i_event=1), rig.opened("hss", i_event=2)
    rig.hss.deliver(rig.enriched(done, 3))
    rig.box.seen.before = [None, Terminal("no such profile")]
    rig.hss.deliver(rig.enriched(refused, 4, blocked=True))
    for number in range(3, 6):
        rig.opened("hss", "mail", i_event=number)

    def search(*outcomes: str, handler: str | None = None, limit: int = 9) -> tuple[list[str], int]:
        wanted = Wanted(handler=handler, outcomes=frozenset(outcomes))
        page = rig.timeline.page(wanted, limit)
        return [
            event_history.i_event or "" for event_history in page.histories
        ], page.looked_through

    assert search("rejected") == (["2"], 5)
    assert search("rejected", handler="mail") == ([], 3)
    assert search("waiting", handler="mail") == (["5", "4", "3"], 3)
    assert search("rejected", "delivered", handler="hss") == (["2", "1"], 5)
    assert search("waiting", limit=1) == (["5"], 2)
    monkeypatch.setattr(timeline, "SEARCHED", 4)
    assert search("delivered") == ([], 4)


def test_pages_follow_each_other_through_the_whole_history(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "_SEARCH_PAGE", 2)
    monkeypatch.setattr(timeline, "SEARCHED", 4)
    for number in range(1, 12):
        rig.opened("hss" if number % 2 else "mail", i_event=number)

    def pages(wanted: Wanted, limit: int) -> list[list[str]]:
        found, after = [], ""
        while True:
            page = rig.timeline.page(wanted, limit, after)
            found.append([event_history.i_event or "" for event_history in page.histories])
            if page.next is None:
                return found
            after = page.next

    everything = pages(Wanted(), 4)
    assert everything == [["11", "10", "9", "8"], ["7", "6", "5", "4"], ["3", "2", "1"]]
    of_mail = pages(Wanted(handler="mail"), 3)  # each page ends when enough was looked through
    assert [number for page in of_mail for number in page] == ["10", "8", "6", "4", "2"]
    assert pages(Wanted(event_type="Nothing/*"), 3) == [[], [], []]


def test_events_of_a_time_and_of_an_account(rig: Rig) -> None:
    rig.opened("hss", i_event=1)
    between = datetime.now(UTC)
    rig.opened("hss", i_event=2)
    for wanted, numbers in (
        (Wanted(since=between), ["2"]),
        (Wanted(until=between), ["1"]),
        (Wanted(account=rig.timeline.find("2")[0].i_account, since=between), ["2"]),
        (Wanted(account=999), []),
    ):
        assert [s.i_event for s in rig.timeline.page(wanted, 9).histories] == numbers, wanted


def test_the_owners_events_around_one(rig: Rig) -> None:
    for number in range(1, 6):
        rig.opened("hss", i_event=number)
    middle = rig.timeline.find("3")[0]
    assert [each.i_event for each in rig.timeline.around(middle, 1)] == ["4", "3", "2"]
    assert [each.i_event for each in rig.timeline.around(middle, 9)] == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize("after", ["x", "2026-01-01T00:00:00+00:00", "2026-01-01~a/b", "~"])
def test_a_made_up_page_is_refused(rig: Rig, after: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rig.timeline.page(Wanted(), 1, after)


def test_a_replay_is_not_the_history_of_the_first_run(rig: Rig) -> None:
    message = rig.opened("hss")
    event = rig.enriched(message)
    rig.hss.deliver(event)
    rig.hss.deliver(replace(event, run=1))
    assert rig.of(message).attempts == 1
    assert rig.of(message).run == 0


def test_a_change_is_shown_whichever_release_kept_it() -> None:
    shown = {"apn": {"from": ["a"], "to": ["a", ["b"]]}}
    assert changes('{"apn":{"from":["a"],"to":["a",["b"]]}}') == shown
    assert changes({"apn": [["a"], ["a", ["b"]]]}) == shown
    assert changes(None) == {}
