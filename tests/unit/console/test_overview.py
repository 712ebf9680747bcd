"""The overview: what it counts, and what it says needs a person, the worst first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nsps.cloud.queues import Queue
from nsps.cloud.store import Store
from nsps.console.overview import (
    QUEUES_SECONDS,
    REMEMBERED_SECONDS,
    Overview,
    _overtaken,
    last_error,
    took,
)
from nsps.console.problems import Problem, Shared, problems
from nsps.delivery import switch
from nsps.delivery.switch import Switches
from nsps.domain.outcome import Terminal, Transient

from tests.unit.console.site_kit import ALL
from tests.unit.test_timeline import Rig

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


class _Handlers:
    by_name = ALL


class Desk:
    """An overview whose clock the test moves."""

    def __init__(self, store: Store) -> None:
        self.now = 0.0
        self.failed_jobs: list[dict[str, Any]] = []
        self.queues: dict[str, Queue] | Transient = {}
        handlers: Any = _Handlers()
        self.overview = Overview(
            store,
            handlers,
            Switches(store),
            lambda: self.failed_jobs,
            self.ask_queues,
            lambda: self.now,
        )

    def ask_queues(self) -> dict[str, Queue]:
        if isinstance(self.queues, Transient):
            raise self.queues
        return self.queues

    def read(self) -> dict[str, Any]:
        self.now += REMEMBERED_SECONDS
        return self.overview.read()

    def hss(self) -> dict[str, Any]:
        return next(row for row in self.read()["handlers"] if row["name"] == "hss")


@pytest.fixture
def rig(store: Store) -> Rig:
    return Rig(store)


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


def event(
    rig: Rig, number: int, fails: Exception | None = None, run: int = 0, i_account: int = 9
) -> str:
    message = rig.opened("hss", i_event=number, i_account=i_account)
    rig.box.seen.before = [fails] if fails else []
    from dataclasses import replace

    rig.hss.deliver(replace(rig.enriched(message, number, blocked=bool(number % 2)), run=run))
    return message.event_id


def test_a_handler_in_service(rig: Rig, desk: Desk) -> None:
    event(rig, 1)
    event(rig, 2)
    row = desk.hss()
    assert (row["state"], row["waiting"], row["parked"], row["to_mend"]) == ("in service", 0, 0, 0)
    assert row["hour"] == row["day"] == {"done": 2, "superseded": 0, "failed": 0}
    assert row["took"]["of"] == 2
    assert desk.read()["problems"] == []


def test_what_is_retried_waits_since_it_was_begun(rig: Rig, desk: Desk) -> None:
    event(rig, 1, Transient("busy"))
    row = desk.hss()
    assert row["waiting"] == 1
    assert datetime.fromisoformat(row["oldest"]) > datetime.now(UTC) - timedelta(minutes=1)
    assert row["last_error"]["text"] == "busy"


def test_what_waits_for_a_paused_handler_is_counted_though_nothing_was_begun(
    rig: Rig, desk: Desk, store: Store
) -> None:
    switch.pause(store, "hss", "me@acme.example", "a new cable")
    for number in range(1, 4):
        rig.opened("hss", i_event=number)
    rig.opened("mail", i_event=9)
    row = desk.hss()
    assert (row["state"], row["waiting"]) == ("paused", 3)
    assert row["oldest"] is not None
    (problem,) = desk.read()["problems"]
    assert problem["text"].startswith("hss is paused by me@acme.example since")
    assert problem["text"].endswith("a new cable; 3 events wait")
    assert (problem["action"], problem["handler"]) == ("resume", "hss")


def test_a_failure_needs_a_person_until_it_is_replayed_or_a_newer_event_is_there(
    rig: Rig, desk: Desk, store: Store
) -> None:
    first = event(rig, 1, Terminal("no such profile"))
    event(rig, 2, Transient("busy"), i_account=10)
    row = desk.hss()
    assert (row["to_mend"], row["day"]["failed"]) == (1, 1)
    (problem,) = desk.read()["problems"]
    assert problem["text"] == "hss: 1 event failed for good in the last day"
    assert problem["error"] == "no such profile"
    store.event(first).set({"runs": {"hss": {"n": 1, "job": "j"}}}, merge=True)
    assert desk.hss()["to_mend"] == 0
    of_first = store.read(store.delivery("hss", first)) or {}
    newest = of_first["finished_at"] + timedelta(minutes=1)
    again = of_first | {"finished_at": newest, "errors": ["still no such profile"]}
    store.delivery("hss", f"{first}.1").set(again)
    row = desk.hss()
    assert (row["to_mend"], row["to_mend_error"]) == (1, "still no such profile")
    store.delivery("hss", f"{first}.1").delete()
    store.event(first).set({"runs": {}}, merge=True)
    event(rig, 3)  # of the same owner
    row = desk.hss()
    assert (row["to_mend"], row["day"]["failed"]) == (0, 1)


def test_a_message_that_was_refused_needs_a_person_until_one_says_the_same() -> None:
    """Whatever else its owner was sent."""
    marks = {"a": {"by": "e1", "watermark": "2"}, "b": {"by": "e2", "watermark": "3"}}
    assert not _overtaken({"meanings": marks}, "e1", "2")
    assert _overtaken({"meanings": marks}, "e0", "1")
    assert not _overtaken({"by": "e0", "watermark": "1"}, "e9", "2")  # refused before it began
    assert not _overtaken({}, "e9", "2")


def test_what_portabilling_could_not_be_read_for(rig: Rig, desk: Desk, store: Store) -> None:
    message = rig.opened("hss")
    rig.history.failed(message, message.event, ["hss"], "PortaBilling is away")
    shared = desk.read()["portabilling"]
    assert (shared["unread"], shared["error"]) == (1, "PortaBilling is away")
    long_ago = datetime.now(UTC) - timedelta(minutes=6)
    store.event(message.event_id).set({"opened_at": long_ago}, merge=True)
    (problem,) = desk.read()["problems"]
    assert problem["text"] == "PortaBilling cannot be read; 1 event waits for it"


def test_what_waits_in_pubsub_is_shown_and_is_a_problem_when_it_is_old(desk: Desk) -> None:
    desk.queues = {"hss": Queue(7, 200, NOW), "enrichment": Queue(1, 4, NOW)}
    found = desk.read()
    assert next(r for r in found["handlers"] if r["name"] == "hss")["queue"]["messages"] == 7
    assert (found["portabilling"]["queue"]["oldest_seconds"], found["problems"]) == (4, [])
    desk.queues = {"hss": Queue(7, 720, NOW)}
    assert desk.read()["problems"] == []  # Monitoring measures each minute: asked half as often
    desk.now += QUEUES_SECONDS
    (problem,) = desk.read()["problems"]
    assert problem["text"] == "hss: 7 events wait in Pub/Sub, the oldest for 12 min"


def test_without_monitoring_everything_else_is_shown(desk: Desk) -> None:
    desk.queues = Transient("Cloud Monitoring answered HTTP 403")
    found = desk.read()
    assert found["queues"]["error"] == "Cloud Monitoring answered HTTP 403"
    assert found["handlers"] and found["handlers"][0]["queue"] is None


def test_many_who_look_at_once_ask_once(rig: Rig, desk: Desk) -> None:
    event(rig, 1)
    before = desk.read()
    event(rig, 2)
    assert desk.overview.read() is before
    assert desk.hss()["day"]["done"] == 2


def test_the_times_are_of_the_newest() -> None:
    assert took([]) is None
    assert took([5.0]) == {"median": 5, "p99": 5, "of": 1}
    assert took([float(each) for each in range(1, 101)]) == {"median": 50, "p99": 99, "of": 100}


def test_the_last_error_is_the_newer_one() -> None:
    retry = {"retry": {"at": NOW, "error": "busy"}}
    failure = {"finished_at": NOW - timedelta(hours=1), "errors": ["no such profile"]}
    assert last_error(None, None) is None
    assert last_error(retry, failure) == {"at": "2026-11-29T12:00:00.000+00:00", "text": "busy"}
    failure["finished_at"] = NOW + timedelta(hours=1)
    assert (last_error(retry, failure) or {})["text"] == "no such profile"


def row(**changes: Any) -> dict[str, Any]:
    quiet = {"name": "hss", "state": "in service", "why": "", "reason": None, "warning": None}
    numbers = {"queue": None, "waiting": 0, "parked": 0, "to_mend": 0}
    errors = {"to_mend_error": None, "last_error": None}
    return {**quiet, **numbers, **errors, **changes}


def shared(**changes: Any) -> Shared:
    quiet: dict[str, Any] = {"unread": 0, "unread_since": None, "unread_parked": 0}
    quiet |= {"unread_error": None, "statuses_due": 0, "statuses_refused": 0, "last_tick": NOW}
    return Shared(**{**quiet, **changes})


def test_the_worst_comes_first() -> None:
    ago = NOW - timedelta(hours=1)
    rows = [
        row(name="a", state="paused", why="paused"),
        row(name="b", state="down", reason="refused"),
        row(name="c", to_mend=2, parked=3),
        row(name="d", state="paused", warning="dropped soon"),
    ]
    found = problems(
        rows,
        shared(last_tick=ago, unread=1, unread_since=ago, statuses_due=50, statuses_refused=2),
        [{"kind": "replay", "id": "j", "error": "x"}],
        NOW,
    )
    assert [each.action for each in found] == [
        "health",  # the scheduler
        "resume",  # what Pub/Sub will drop
        "health",  # PortaBilling
        "look",
        "failed",
        "health",  # statuses wait
        "health",  # statuses are refused
        "job",
        "parked",
        "resume",
    ]
    levels = [each.to_json()["level"] for each in found]
    assert levels == ["bad"] * 5 + ["wait"] * 5


@pytest.mark.parametrize(
    "quiet",
    [shared(), shared(last_tick=None), shared(statuses_due=3), shared(unread=3, unread_since=NOW)],
)
def test_what_passes_by_itself_is_no_problem(quiet: Shared) -> None:
    assert problems([row(waiting=3)], quiet, [], NOW) == []


def test_a_problem_names_its_action() -> None:
    assert Problem(10, "t", "look", "hss", error="e").to_json() == {
        "level": "bad",
        "text": "t",
        "error": "e",
        "action": "look",
        "handler": "hss",
        "job": None,
    }
