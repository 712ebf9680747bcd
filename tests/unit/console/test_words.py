"""In plain words: what happened, what waits, and the command that helps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from nsps.console.find import Subject
from nsps.console.words import of_story, of_subject
from nsps.event import Owner
from nsps.switch import Pause, Switch
from nsps.timeline import Delivered, Story

AT = "2026-11-21T10:00:00.000+00:00"


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
        "orders": (),
        "espf": None,
    }
    return Delivered(**{**usual, **more})


def story(*deliveries: Delivered, **more: Any) -> Story:
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
    return Story(**{**usual, **more}, deliveries=deliveries)


def test_what_was_written_and_what_portabilling_heard() -> None:
    result = {
        "key": "001010000000001",
        "result": "written",
        "fields": {"active": [True, False]},
        "took_ms": 3.0,
    }
    espf = {"group": "HSS", "status": "OK", "told": True, "told_at": AT, "of_this": True}
    words = of_story(story(delivered(results=(result,), espf=espf)), {})
    told = [line.text for line in words.happened]
    assert told[0].startswith("PortaBilling sent SIM/Updated (event 77) about account 1001")
    assert "hss: 001010000000001 was written (active from True to False)" in told[2]
    assert "PortaBilling was told OK for HSS" in told
    assert words.waiting == ()
    assert [each.command for each in words.advice] == ["nsps reconcile hss --account 1001"]


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
            "then every day",
            "nsps replay e1 --handler hss",
        ),
        ({"outcome": "rejected"}, None, "nsps replay e1 --handler hss"),
        ({"outcome": "expired"}, None, "nsps replay e1 --handler hss"),
        ({"outcome": "accepted", "orders": ("o-1",)}, "answer to o-1", None),
        ({"outcome": None, "attempts": 0}, "is about to have it", None),
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
    words = of_story(story(delivered(**delivery)), {})
    assert len(words.waiting) == (0 if waits is None else 1)
    assert waits is None or waits in words.waiting[0]
    commands = [each.command for each in words.advice]
    assert command in commands if command else not commands


def test_a_paused_handler_says_who_and_until_when() -> None:
    paused = Switch(pause=Pause("ann@acme.example", datetime(2026, 11, 20, tzinfo=UTC), "cable"))
    words = of_story(story(delivered(outcome=None)), {"hss": paused})
    assert "paused by ann@acme.example" in words.waiting[0]
    assert "kept until 2026-12-20" in words.waiting[0]
    assert [each.command for each in words.advice] == ["nsps resume hss"]


def test_every_outcome_has_words() -> None:
    from nsps.outcome import Outcome

    for outcome in Outcome:
        words = of_story(story(delivered(outcome=outcome.value)), {})
        assert all(line.text for line in words.happened)


def test_a_subscriber_with_nothing_and_one_with_a_sim() -> None:
    nothing = of_subject(Subject(Owner("account", "1001")), {})
    assert any("has nothing in any system" in line.text for line in nothing.happened)
    resource = {
        "handler": "hss",
        "key": "001010000000001",
        "owner": "account:1001",
        "state": {"active": True},
        "sure": False,
        "writing": False,
        "pending": None,
        "changed_at": AT,
        "by": "e1",
    }
    subject = Subject(Owner("account", "1001"), (resource,), events=(story(delivered()),))
    words = of_subject(subject, {})
    assert "its last write is in doubt" in words.happened[0].text
    assert "nsps reconcile hss --account 1001" in {each.command for each in words.advice}
    replayed = replace(delivered(), run=2)
    assert (
        "(replay 2)"
        in of_subject(replace(subject, events=(story(replayed),)), {}).happened[-1].text
    )
