"""In plain words: what happened, what waits, and the command that helps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from nsps.console.event_json import event_json
from nsps.console.explanation import Systems, explain_event, explain_subject
from nsps.console.find import Subject
from nsps.delivery.switch import Breaker, Pause, State, Switch
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.event import Owner
from nsps.runtime.settings import HandlerSummary

AT = "2026-11-21T10:00:00.000+00:00"


HSS = HandlerSummary(name="hss", connector="x", events=("SIM/*",))
MAIL = HandlerSummary(name="mail", connector="x", events=("SIM/*",), kind="message")


def delivered(**more: Any) -> Delivered:
    usual: dict[str, Any] = {
        "handler": "hss",
        "delivery": "e1",
        "outcome": "delivered",
        "attempts": 1,
        "begun_at": AT,
        "last_at": AT,
        "finished_at": AT,
        "results": (),
        "errors": (),
        "retry": None,
        "next_try": None,
        "summary": None,
        "superseded_by": None,
        "read_again": 0,
        "orders": (),
        "espf": None,
    }
    return Delivered(**{**usual, **more})


def history(*deliveries: Delivered, **more: Any) -> EventHistory:
    usual: dict[str, Any] = {
        "event_id": "e1",
        "event_type": "SIM/Updated",
        "i_event": "77",
        "i_account": 1001,
        "owner": "account:1001",
        "state": "enriched",
        "received_at": AT,
        "opened_at": AT,
        "enriched_at": AT,
        "read_ms": 12.5,
        "snapshot_t": None,
        "trace_id": "",
        "retry": None,
        "next_try": None,
    }
    return EventHistory(**{**usual, **more}, deliveries=deliveries)


def test_what_was_written_and_what_portabilling_heard() -> None:
    result = {
        "key": "001010000000001",
        "result": "written",
        "fields": {
            "active": {"from": True, "to": False},
            "msisdn": {"from": "447700900001", "to": None},
        },
        "took_ms": 3.0,
    }
    espf = {"group": "HSS", "status": "OK", "sent": True, "sent_at": AT, "of_this": True}
    words = explain_event(history(delivered(results=(result,), espf=espf)), Systems())
    texts = [line.text for line in words.happened]
    assert texts[0].startswith("PortaBilling sent SIM/Updated (event 77) about account 1001")
    changed = "active from yes to no, msisdn from 447700900001 to none"
    assert f"hss: 001010000000001 was written ({changed})" in texts[2]
    assert "PortaBilling was sent status OK for HSS" in texts
    assert words.waiting == ()
    assert [each.command for each in words.advice] == ["nsps reconcile hss --account 1001"]


def test_a_damaged_answer_of_portabilling_is_named_once() -> None:
    words = explain_event(history(delivered(), damaged=("account_info",)), Systems())
    (said,) = [line.text for line in words.happened if "damaged" in line.text]
    assert "account_info" in said


def test_what_the_system_said_and_what_failed_before_stay_after_a_success() -> None:
    result = {"key": "message/account:1", "result": "written", "answer": "202 Event ignored"}
    failures = (
        {"error": "503 Busy", "at": AT, "times": 1},
        {"error": "no answer within 45 s", "at": AT, "times": 3},
    )
    words = explain_event(history(delivered(results=(result,), failures=failures)), Systems())
    texts = [line.text for line in words.happened]
    assert 'hss: the message was taken; it answered "202 Event ignored"' in texts
    assert "hss: 503 Busy" in texts
    assert "hss: no answer within 45 s (3 times)" in texts


@pytest.mark.parametrize(
    ("delivery", "waits", "command"),
    [
        (
            {"outcome": "retrying", "retry": {"error": "away", "at": AT}, "next_try": AT},
            "tried again about 2026-11-21 10:00:00 UTC",
            "nsps replay e1 --handler hss",
        ),
        (
            {"outcome": "parked", "retry": {"error": "away", "at": AT}, "next_try": AT},
            "and further for 30 days",
            "nsps replay e1 --handler hss",
        ),
        ({"outcome": "rejected"}, None, "nsps replay e1 --handler hss"),
        ({"outcome": "expired"}, None, "nsps replay e1 --handler hss"),
        ({"outcome": "accepted", "orders": ("o-1",)}, "answer to order o-1", None),
        (
            {"outcome": "accepted", "results": ({"key": "imsi:1", "order": "SO-9"},)},
            "answer to order SO-9, taken at 2026-11-21 10:00 UTC; not answered by 2026-11-22 10:00",
            None,
        ),
        (
            {"outcome": "accepted", "results": ({"key": "message/event:e1", "order": "m1"},)},
            "receipt of its message m1, taken at 2026-11-21 10:00 UTC; not answered by "
            "2026-11-22 10:00 UTC, it has failed, or arrived",
            None,
        ),
        ({"outcome": None, "attempts": 0}, "is about to receive it", None),
        (
            {"outcome": "waiting", "waits_for": "the answer to an earlier order"},
            "waits for the answer to an earlier order",
            None,
        ),
    ],
)
def test_what_waits_and_what_can_be_done(
    delivery: dict[str, Any], waits: str | None, command: str | None
) -> None:
    words = explain_event(history(delivered(**delivery)), Systems(handlers={"hss": HSS}))
    assert len(words.waiting) == (0 if waits is None else 1)
    assert waits is None or waits in words.waiting[0]
    commands = [each.command for each in words.advice]
    assert command in commands if command else not commands


def test_how_it_stands_is_the_newest_delivery_of_each_handler_the_worst_first() -> None:
    away = {"error": "HTTP 503", "at": AT}
    deliveries = (
        delivered(handler="a"),
        delivered(handler="b", outcome="retrying", retry=away, next_try=AT, attempts=2),
        delivered(handler="c", outcome="rejected"),
        delivered(handler="c", outcome="rejected", run=1, errors=("no such profile",)),
    )
    (c, b, a) = explain_event(history(*deliveries), Systems()).standing
    assert [each.handler for each in (a, b, c)] == ["a", "b", "c"]
    assert c.text == "failed for good, it is not tried again by itself: no such profile"
    assert b.text == "tried again about 2026-11-21 10:00:00 UTC; 2 attempts so far: HTTP 503"
    assert (a.outcome, a.text) == ("delivered", "done")


def test_an_event_that_portabilling_was_not_read_for_stands_at_no_handler() -> None:
    unread = {"enriched_at": None, "retry": {"error": "HTTP 502", "at": AT}, "state": "received"}
    never = delivered(outcome=None, begun_at=None, attempts=0)
    (only,) = explain_event(history(never, **unread), Systems()).standing
    assert (only.handler, only.outcome) == ("", "PortaBilling not read")
    assert only.text.endswith("then it goes to hss: HTTP 502")


def test_a_subscriber_stands_where_its_newest_events_left_it() -> None:
    older = history(delivered(outcome="rejected"), event_id="e1", i_event="1")
    newer = history(delivered(outcome="superseded"), event_id="e2", i_event="2")
    subject = Subject(Owner("account", "1001"), events=(older, newer))
    (only,) = explain_subject(subject, Systems()).standing
    assert (only.outcome, only.event, only.event_name) == (
        "rejected",
        "e1",
        "SIM/Updated (event 1)",
    )


def test_a_paused_handler_says_who_and_until_when() -> None:
    paused = Switch(pause=Pause("ann@acme.example", datetime(2026, 11, 20, tzinfo=UTC), "cable"))
    words = explain_event(history(delivered(outcome=None)), Systems({"hss": paused}))
    assert "paused by ann@acme.example" in words.waiting[0]
    assert "kept until 2026-12-20" in words.waiting[0]
    assert [each.command for each in words.advice] == ["nsps resume hss"]


def test_a_system_that_is_down_is_not_to_be_sent_to_now() -> None:
    down = Switch(
        breaker=Breaker(State.OPEN, 20, "HTTP 503", opened_at=datetime(2026, 11, 20, tzinfo=UTC))
    )
    failed = delivered(outcome="retrying", retry={"error": "HTTP 503", "at": AT}, next_try=AT)
    words = explain_event(history(failed), Systems({"hss": down}))
    assert "its system is down: HTTP 503; what waits is kept until" in words.waiting[0]
    assert [each.command for each in words.advice] == ["nsps handlers"]
    parked = delivered(outcome="parked", retry={"error": "HTTP 503", "at": AT}, next_try=AT)
    assert "uses up no try" in explain_event(history(parked), Systems({"hss": down})).waiting[0]


def test_while_portabilling_cannot_be_read_the_handlers_are_not_waited_for_one_by_one() -> None:
    none: dict[str, Any] = {"outcome": None, "begun_at": None, "attempts": 0}
    away = {"enriched_at": None, "retry": {"error": "HTTP 502", "at": AT}}
    both = (delivered(**none), delivered(handler="mail", **none))
    words = explain_event(history(*both, state="received", **away), Systems())
    assert words.waiting == (
        "PortaBilling is read again within 10 minutes, then it goes to hss, mail",
    )
    assert [each.command for each in words.advice] == ["nsps doctor"]
    words = explain_event(history(*both, state="parked", next_try=AT, **away), Systems())
    assert "read again about 2026-11-21 10:00:00 UTC" in words.waiting[0]


NEVER: dict[str, Any] = {"outcome": None, "begun_at": None, "attempts": 0}


@pytest.mark.parametrize(("minutes", "said"), [(9, "is about to receive it"), (11, "is lost")])
def test_what_does_not_come_is_not_about_to_come(minutes: int, said: str) -> None:
    """Without a sign of it for longer than any back-off, it may be lost."""
    sent = {**NEVER, "sent_at": AT}
    systems = Systems(handlers={"hss": HSS}, now=datetime(2026, 11, 21, 10, minutes, tzinfo=UTC))
    for run in (0, 1):
        words = explain_event(history(delivered(**sent, run=run)), systems)
        assert len(words.waiting) == 1 and said in words.waiting[0]
        again = "nsps replay e1 --handler hss" in [each.command for each in words.advice]
        assert again == (minutes > 10)


def test_a_handler_that_the_deployment_has_no_more_gets_nothing() -> None:
    systems = Systems(handlers={"mail": MAIL})
    for outcome in (None, "retrying", "parked", "accepted"):
        failed = {"error": "away", "at": AT} if outcome == "retrying" else None
        words = explain_event(history(delivered(outcome=outcome, retry=failed)), systems)
        (waits,) = words.waiting
        assert "nothing more comes" in waits
        assert words.advice == ()


def test_what_expired_unread_can_be_replayed_and_the_replay_is_waited_for() -> None:
    reason = {"errors": ("not delivered in 30 days: HTTP 502",), "begun_at": None, "attempts": 0}
    both = [delivered(handler=name, outcome="expired", **reason) for name in ("hss", "mail")]
    unread: dict[str, Any] = {"state": "expired", "enriched_at": None}
    words = explain_event(history(*both, **unread), Systems())
    assert words.waiting == ()
    assert [each.command for each in words.advice] == [
        "nsps replay e1 --handler hss",
        "nsps replay e1 --handler mail",
    ]
    words = explain_event(history(*both, delivered(**NEVER, run=1), **unread), Systems())
    assert words.waiting == ("hss: is about to receive it",)


def test_what_is_parked_unread_can_be_sent_now() -> None:
    parked = delivered(**{**NEVER, "outcome": "parked"}, next_try=AT)
    unread: dict[str, Any] = {"state": "parked", "enriched_at": None, "next_try": AT}
    words = explain_event(history(parked, **unread), Systems())
    (waits,) = words.waiting
    assert waits.startswith("PortaBilling is read again")
    assert [each.command for each in words.advice] == ["nsps replay e1 --handler hss"]


def test_a_message_handler_is_spoken_of_as_one_and_not_compared() -> None:
    result = {"key": "message/account:1001", "result": "written", "took_ms": 2.0}
    sent = delivered(handler="mail", results=(result,), summary="SIM/Updated for account:1001")
    words = explain_event(history(sent), Systems(handlers={"mail": MAIL}))
    texts = [line.text for line in words.happened]
    assert "mail: the message was taken; the system took 2 ms" in texts
    assert "mail: message: SIM/Updated for account:1001" in texts
    assert words.advice == ()


def test_a_message_that_was_overtaken_and_read_again() -> None:
    waiting = {"read_again": 1, "waits_for": "newer data: another event of the owner went first"}
    words = explain_event(history(delivered(handler="mail", outcome=None, **waiting)), Systems())
    assert words.waiting == ("mail: waits for newer data: another event of the owner went first",)
    words = explain_event(history(delivered(handler="mail", read_again=1)), Systems())
    texts = [line.text for line in words.happened]
    assert (
        "mail: done, with data read again: a newer event of the owner had been delivered before it"
        in texts
    )


def test_advice_is_of_the_newest_try_and_not_of_what_is_past() -> None:
    refused, done = delivered(outcome="rejected"), delivered(run=1)
    words = explain_event(history(refused, done), Systems())
    assert [each.command for each in words.advice] == ["nsps reconcile hss --account 1001"]
    older, newer = history(refused, event_id="e1"), history(delivered(), event_id="e2")
    subject = Subject(Owner("account", "1001"), events=(older, newer))
    assert not any("replay" in each.command for each in explain_subject(subject, Systems()).advice)


def test_what_many_events_wait_for_is_said_once() -> None:
    paused = Switch(pause=Pause("ann@acme.example", datetime(2026, 11, 20, tzinfo=UTC), "cable"))
    events = tuple(
        history(delivered(outcome=None), event_id=f"e{number}", i_event=str(number))
        for number in range(1, 6)
    )
    words = explain_subject(
        Subject(Owner("account", "1001"), events=events), Systems({"hss": paused})
    )
    (waits,) = words.waiting
    assert waits.startswith("5 events (1, 2, 3 and 2 more): hss: paused by ann@acme.example")


def test_every_outcome_has_words() -> None:
    from nsps.domain.outcome import Outcome

    for outcome in Outcome:
        words = explain_event(history(delivered(outcome=outcome.value)), Systems())
        assert all(line.text for line in words.happened)


def test_a_subscriber_with_nothing_and_one_with_a_sim() -> None:
    nothing = explain_subject(Subject(Owner("account", "1001")), Systems())
    assert any("has nothing in any system" in line.text for line in nothing.happened)
    resource = {
        "handler": "hss",
        "key": "001010000000001",
        "owner": "account:1001",
        "state": {"active": True},
        "sure": False,
        "owed": False,
        "writing": False,
        "pending": None,
        "changed_at": AT,
        "by": "e1",
    }
    subject = Subject(Owner("account", "1001"), (resource,), events=(history(delivered()),))
    words = explain_subject(subject, Systems())
    assert "its last write is in doubt" in words.happened[0].text
    owed = explain_subject(replace(subject, resources=({**resource, "owed": True},)), Systems())
    assert "or what has to follow it, has not been confirmed" in owed.happened[0].text
    assert "nsps reconcile hss --account 1001" in {each.command for each in words.advice}
    replayed = replace(delivered(), run=2)
    assert (
        "(replay 2)"
        in explain_subject(replace(subject, events=(history(replayed),)), Systems())
        .happened[-1]
        .text
    )


def test_a_handler_that_was_taken_away_waits_for_nothing() -> None:
    words = explain_event(history(delivered(outcome=None)), Systems(handlers={"mail": MAIL}))
    assert "hss: is not part of this deployment any more; nothing more comes" in words.waiting


def test_portabilling_is_read_before_a_handler_begins() -> None:
    """``enriched_at`` is written after the event was published: a fast handler is done by then."""
    late = "2026-11-21T10:00:00.300+00:00"
    entries = explain_event(history(delivered(), enriched_at=late), Systems()).happened
    assert [line.text for line in entries][1] == "PortaBilling was read in 12.5 ms"


@pytest.mark.parametrize(
    ("deliveries", "more", "outcomes"),
    [
        (
            ({}, {"handler": "mail", "outcome": "rejected"}),
            {},
            ["rejected mail 0", "delivered hss 0"],
        ),
        (({"outcome": "rejected"}, {"run": 1}), {}, ["delivered hss 1"]),
        (({"outcome": None},), {}, ["waiting hss 0"]),
        ((), {"state": "unhandled"}, ["unhandled  0"]),
        (
            ({"outcome": None, "begun_at": None}, {"run": 1}),
            {"state": "received", "enriched_at": None, "retry": {"error": "away", "at": AT}},
            ["PortaBilling not read  0", "delivered hss 1"],
        ),
    ],
)
def test_an_event_has_one_outcome_for_each_handler(
    deliveries: tuple[dict[str, Any], ...], more: dict[str, Any], outcomes: list[str]
) -> None:
    found = event_json(history(*(delivered(**each) for each in deliveries), **more))["outcomes"]
    assert [f"{each['outcome']} {each['handler']} {each['run']}" for each in found] == outcomes
