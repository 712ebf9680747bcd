"""Dead letters parked, sent again at the pace a system bears, and at last expired."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nsps.cloud.messages import ENRICHMENT, MalformedMessage, PushMessage
from nsps.cloud.store import Store, Tx
from nsps.console.handlers import Handlers
from nsps.console.identity import Person, Role
from nsps.console.parked import CannotSendNow, NotParked, Parked
from nsps.delivery import switch
from nsps.delivery.history import UNREADABLE, time_of_receipt
from nsps.delivery.resend import Resend
from nsps.delivery.switch import Switch, Switches
from nsps.delivery.timeline import Timeline
from nsps.domain.outcome import Transient
from nsps.espf import outbox
from nsps.espf.poster import Poster
from nsps.flows import retries
from nsps.flows.deadlines import Deadlines
from nsps.flows.retries import SOURCE, TICK_SECONDS, Retries, Upkeep
from nsps.flows.schedules import Schedules
from nsps.runtime import log
from nsps.runtime.redact import Redactor
from nsps.runtime.settings import HandlerSummary, LongSchedule, RetrySettings
from nsps.transport.http import Http

from tests.unit.connector.systems import Espf, new_store

BODY = {"event_type": "SIM/Updated", "variables": {"i_account": 7, "i_event": 1}}
PAST = datetime(2026, 1, 1, tzinfo=UTC)


class Topic:
    """Stands for Pub/Sub: remembers what was published, and can be away."""

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []
        self.away = False
        self.expects = b""
        self._lock = threading.Lock()

    def publish(self, topic: str, data: bytes, attributes: dict[str, str], **_: Any) -> str:
        if self.away:
            raise Transient("Pub/Sub is away")
        assert data == self.expects if self.expects else json.loads(data) == BODY
        with self._lock:
            self.sent.append(attributes)
        return str(len(self.sent))

    @property
    def events(self) -> list[str]:
        return sorted(attributes["event_id"] for attributes in self.sent)


class Kept:
    """Maintenance without subscriptions: only reads the switches."""

    def __init__(self, store: Store, handlers: list[str]) -> None:
        self._switches, self._handlers = Switches(store), handlers

    def tick(self) -> tuple[dict[str, Switch], datetime]:
        return self._switches.read_all(self._handlers)


class World:
    """The flow with its surroundings; sleeping passes time on its own clock."""

    def __init__(self, store: Store, **hss: Any) -> None:
        self.store, self.topic, self.espf = store, Topic(), Espf()
        self.now = 0.0
        self._lock = threading.Lock()
        self.handlers = [self.handler("hss", group="HSS", **hss), self.handler("iptv")]
        self.retries = self.made()

    @staticmethod
    def handler(name: str, **more: Any) -> HandlerSummary:
        return HandlerSummary(name=name, connector="sample", events=("SIM/*",), **more)

    def made(self) -> Retries:
        poster = Poster(self.store, lambda: self.espf)
        kept: Any = Kept(self.store, [handler.name for handler in self.handlers])
        none: Any = None
        deadlines = Deadlines([], dict, self.store, none)
        publisher: Any = self.topic
        return Retries(
            "acme",
            self.handlers,
            self.store,
            Resend(lambda: publisher, "topic"),
            Upkeep(poster, kept, deadlines, Schedules(Handlers([], {}, Http()))),
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds

    def park(self, event_id: str, stage: str = "hss", run: str = "") -> None:
        """A dead letter of an event that has a history."""
        about = {"i_account": 7, "t": f"2026-11-21T02:10:03.000000Z/{event_id}"}
        if stage == ENRICHMENT:
            self.store.event(event_id).set({"state": "received", "handlers": ["hss"], **about})
        else:
            retry = {"error": "HTTP 503", "at": PAST}
            self.store.delivery(stage, event_id + run).set(
                {**about, "outcome": None} | {"retry": retry}
            )
        source = f"projects/p/subscriptions/acme-{stage}"
        attributes = {"event_id": event_id, SOURCE: source, "received_at": "2026-11-21T02:10:03Z"}
        if run:
            attributes["run"] = run.removeprefix(".")
        data = json.dumps(BODY if stage == ENRICHMENT else {"data": BODY}).encode()
        self.retries.park(PushMessage(data, attributes, "1", "", None, ""))

    def parked(self, name: str) -> dict[str, Any]:
        found = self.store.read(self.store.parked(name))
        assert found is not None
        return found

    def due(self, name: str, **more: Any) -> None:
        self.store.parked(name).set({"next_try": PAST, **more}, merge=True)

    def delivery(self, event_id: str) -> dict[str, Any]:
        return self.store.read(self.store.delivery("hss", event_id)) or {}


@pytest.fixture
def world(target: str) -> World:
    return World(new_store(target))


def hours_from_now(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds() / 3600


def test_a_dead_letter_is_parked_with_reason_and_next_try(world: World) -> None:
    world.park("e1")
    kept, delivery = world.parked("hss.e1"), world.delivery("e1")
    assert (kept["reason"], kept["tries"], kept["last"]) == ("HTTP 503", 0, False)
    assert 0.99 < hours_from_now(kept["next_try"]) < 1.11
    assert (delivery["outcome"], delivery["next_try"]) == ("parked", kept["next_try"])
    world.park("e1")  # the same dead letter again
    assert world.parked("hss.e1") == kept
    assert world.retries.tick().sent == 0


def test_a_due_event_goes_back_through_enrichment_for_its_one_handler(world: World) -> None:
    world.park("e1")
    world.park("e2", run=".3")
    world.due("hss.e1")
    world.due("hss.e2.3")
    assert world.retries.tick().sent == 2
    sent = {attributes["event_id"]: attributes for attributes in world.topic.sent}
    assert (sent["e1"]["handler"], sent["e1"]["rung"], sent["e1"].get("run")) == ("hss", "1", None)
    assert (sent["e2"]["handler"], sent["e2"]["rung"], sent["e2"]["run"]) == ("hss", "1", "3")
    kept = world.parked("hss.e1")
    assert kept["tries"] == 1 and 1.99 < hours_from_now(kept["next_try"]) < 2.21


def test_what_was_delivered_meanwhile_is_not_sent(world: World) -> None:
    world.park("e1")
    world.due("hss.e1")
    world.store.delivery("hss", "e1").set({"outcome": "delivered"}, merge=True)
    assert world.retries.tick().sent == 0 and world.topic.sent == []
    assert world.parked("hss.e1")["next_try"] is None


def test_enrichments_dead_letters_have_their_own_schedule(world: World) -> None:
    world.park("e1", ENRICHMENT)
    assert (world.store.read(world.store.event("e1")) or {})["state"] == "parked"
    world.due("enrichment.e1")
    assert world.retries.tick().sent == 1
    assert "handler" not in world.topic.sent[0]


def test_a_parked_replay_marks_its_own_delivery_and_not_the_event(world: World) -> None:
    world.park("e1", ENRICHMENT)
    attributes = {"event_id": "e2", SOURCE: "projects/p/subscriptions/acme-enrichment"}
    attributes |= {"handler": "hss", "run": "1"}
    world.store.event("e2").set({"state": "received", "handlers": ["hss", "iptv"]})
    world.retries.park(PushMessage(json.dumps(BODY).encode(), attributes, "1", "", None, ""))
    assert (world.store.read(world.store.event("e2")) or {})["state"] == "received"
    assert world.delivery("e2.1")["outcome"] == "parked"
    world.store.event("e2").set({"state": "enriched"}, merge=True)  # the original came to all
    world.due(f"{ENRICHMENT}.e2.1")
    assert world.retries.tick().sent == 1


def test_a_paused_or_broken_handlers_events_wait_without_using_a_try(world: World) -> None:
    world.park("e1")
    world.park("e2", "iptv")
    world.due("hss.e1")
    world.due("iptv.e2")
    switch.pause(world.store, "hss", "ops", "repair")
    ticked = world.retries.tick()
    assert (ticked.sent, world.topic.events) == (1, ["e2"])
    assert list(ticked.off) == ["hss"]
    switch.resume(world.store, "hss", "ops", "")
    Switches(world.store).open("hss", 20, "down")
    assert world.retries.tick().sent == 0
    assert world.parked("hss.e1")["tries"] == 0
    Switches(world.store).probed("hss", None)  # comes back: still not
    assert world.retries.tick().sent == 0
    world.store.handler("hss").set({"breaker": {"state": "closed"}}, merge=True)
    assert world.retries.tick().sent == 1


def test_an_outage_does_not_come_back_as_a_flood(target: str) -> None:
    world = World(new_store(target), max_rate=2.0)
    for number in range(100):
        world.park(f"e{number:03}")
        world.due(f"hss.e{number:03}")
    world.park("other", "iptv")
    world.due("iptv.other")
    ticked = world.retries.tick()
    assert world.now <= TICK_SECONDS + 1
    assert ticked.sent <= 1 + 2 * TICK_SECONDS + 1
    assert "other" in world.topic.events
    while world.retries.tick().sent:
        world.now = 0.0
    assert len(set(world.topic.events)) == 101


def test_two_ticks_at_once_send_nothing_twice(world: World) -> None:
    for number in range(20):
        world.park(f"e{number}")
        world.due(f"hss.e{number}")
    ticks = [world.made() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        sent = sum(ticked.sent for ticked in pool.map(Retries.tick, ticks))
    assert sent == 20 and world.topic.events == sorted(f"e{n}" for n in range(20))


def test_a_tick_that_is_cut_off_forgets_nothing(world: World) -> None:
    world.park("e1")
    world.due("hss.e1")
    world.topic.away = True
    assert world.retries.tick().sent == 0
    world.topic.away = False
    assert world.retries.tick().sent == 0  # held for a minute: the cut-off tick may be at it yet
    world.store.parked("hss.e1").set({"held_until": PAST}, merge=True)
    assert world.retries.tick().sent == 1
    assert world.parked("hss.e1")["tries"] == 1


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=-3)], ids=["ahead", "behind"])
def test_an_instances_own_clock_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + ahead

    monkeypatch.setattr(retries, "datetime", Wrong)
    world.park("e1")
    assert world.retries.tick().sent == 0 and world.topic.sent == []
    world.due("hss.e1")
    assert world.retries.tick().sent == 1


def test_the_last_try_has_its_time_before_the_event_expires(world: World) -> None:
    world.park("e1")
    world.due("hss.e1", tries=32, parked_at=datetime.now(UTC) - timedelta(days=29, hours=23))
    assert world.retries.tick().sent == 1
    kept = world.parked("hss.e1")
    assert (kept["tries"], kept["last"]) == (33, True)
    assert 0.9 < hours_from_now(kept["next_try"]) < 1.1
    assert world.retries.tick().expired == 0
    world.due("hss.e1")
    assert world.retries.tick().expired == 1
    ended = world.delivery("e1")
    assert ended["outcome"] == "expired" and ended["finished_at"] is not None
    assert ended["errors"] == ["not delivered in 30 days: HTTP 503"]
    assert [each[2] for each in world.espf.posted] == ["FAILED"]
    assert len(world.topic.sent) == 1 and world.retries.tick().expired == 0


@pytest.mark.parametrize("minutes", [-1, 1])
def test_what_expires_unread_is_failed_as_of_its_receipt(world: World, minutes: int) -> None:
    """PortaBilling has OK of an earlier event, which is then wrong; or of a later one, which read
    what this one changed."""
    of_another = datetime.now(UTC) + timedelta(minutes=minutes)
    status = outbox.Status(
        t=time_of_receipt(of_another, "e0"), phase=2, status="OK", revision=1, posted=1
    )
    world.store.status(7, "HSS").set(status.write())
    world.store.event("e1").set({"state": "received", "handlers": ["hss"], "i_account": 7})
    source = f"projects/p/subscriptions/acme-{ENRICHMENT}"
    attributes = {"event_id": "e1", SOURCE: source, "received_at": ""}
    world.retries.park(PushMessage(json.dumps(BODY).encode(), attributes, "1", "", None, ""))
    world.due(f"{ENRICHMENT}.e1", last=True)
    assert world.retries.tick().expired == 1
    assert [each[2] for each in world.espf.posted] == (["FAILED"] if minutes < 0 else [])


def test_what_expires_is_logged_once_however_often_the_transaction_is_run(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firestore runs a transaction's body again when another writer was faster."""
    log.configure(project="p", redactor=Redactor(b"k" * 32))
    world.park("e1")
    world.due("hss.e1", last=True)
    once = Store.transact

    def twice(store: Store, body: Callable[[Tx], Any], **more: Any) -> Any:
        def run(tx: Tx) -> Any:
            body(tx)
            return body(tx)

        return once(store, run, **more)

    monkeypatch.setattr(Store, "transact", twice)
    capsys.readouterr()
    assert world.retries.tick().expired == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    logged = [line for line in lines if line["message"] == "expired: all tries used"]
    assert [(each["stage"], each["event_id"]) for each in logged] == [("hss", "e1")]


def test_a_last_try_that_succeeds_is_not_called_expired(world: World) -> None:
    world.park("e1")
    world.due("hss.e1", last=True)
    world.store.delivery("hss", "e1").set({"outcome": "delivered"}, merge=True)
    assert world.retries.tick().expired == 0
    assert world.delivery("e1")["outcome"] == "delivered" and world.espf.posted == []


def test_a_handler_may_have_a_schedule_of_its_own(target: str) -> None:
    none = RetrySettings(long=LongSchedule(hours=(), then=1, days=0))
    world = World(new_store(target), retries=none)
    world.park("e1")
    assert world.parked("hss.e1")["last"]
    assert world.retries.tick().expired == 1
    own = RetrySettings(long=LongSchedule(hours=(0.5,), then=6, days=2))
    world = World(new_store(target), retries=own)
    world.park("e1")
    assert 0.49 < hours_from_now(world.parked("hss.e1")["next_try"]) < 0.56


def test_what_failed_together_does_not_come_back_together(world: World) -> None:
    for number in range(8):
        world.park(f"e{number}")
    tries = {world.parked(f"hss.e{number}")["next_try"] for number in range(8)}
    assert max(tries) - min(tries) > timedelta(seconds=10)


def test_a_dead_letter_from_nowhere_is_refused(world: World) -> None:
    for attributes in (
        {"event_id": "e"},
        {"event_id": "e", SOURCE: "x/acme-gone"},
    ):
        with pytest.raises(MalformedMessage):
            world.retries.park(PushMessage(b"{}", attributes, "1", "", None, ""))


def letter(stage: str, data: bytes, **attributes: str) -> PushMessage:
    source = {SOURCE: f"projects/p/subscriptions/acme-{stage}"}
    return PushMessage(data, source | attributes, "77", "2026-11-21T02:10:03Z", None, "")


@pytest.mark.parametrize(
    "data", [b"\xff\x00", b"{", b"[]", b'{"event_type": "SIM/X", "variables": {"limit": Infinity}}']
)
def test_a_letter_that_cannot_be_read_is_parked_with_its_bytes(world: World, data: bytes) -> None:
    world.retries.park(letter(ENRICHMENT, data, event_id="e1"))
    kept = world.parked("enrichment.e1")
    assert (kept["body"], zlib.decompress(kept["letter"])) == (None, data)
    assert kept["reason"].startswith("the message cannot be read: ")
    entry = world.store.read(world.store.event("e1")) or {}
    assert (entry["state"], entry["event_type"]) == ("parked", UNREADABLE)
    (shown,) = Timeline(world.store, {}).latest(5)
    assert (shown.event_id, shown.state, shown.final) == ("e1", "parked", False)
    (listed,) = Parked(world.store).page(ENRICHMENT, 5).events
    assert listed["event_type"] == UNREADABLE and listed["letter"] == data.decode(
        "utf-8", "replace"
    )
    world.due("enrichment.e1")
    world.topic.expects = data  # a later release may be able to read it
    assert world.retries.tick().sent == 1


def test_a_handlers_letter_that_cannot_be_read_is_sent_again_from_the_history(world: World) -> None:
    kept = {"event_type": "SIM/Updated", "variables": json.dumps(BODY["variables"])}
    world.store.event("e1").set(kept)
    world.retries.park(letter("hss", b"{", event_id="e1", owner="account:7"))
    parked = world.parked("hss.e1")
    assert (json.loads(parked["body"]), zlib.decompress(parked["letter"])) == (BODY, b"{")
    assert (parked["i_account"], parked["handlers"]) == (7, ["hss"])
    world.due("hss.e1")
    assert world.retries.tick().sent == 1


def test_a_letter_without_an_id_is_parked_under_its_messages(world: World) -> None:
    world.retries.park(letter(ENRICHMENT, b"{", run="x"))
    assert world.parked("enrichment.message-77")["run"] is None
    assert [each.event_id for each in Timeline(world.store, {}).latest(5)] == ["message-77"]


def test_an_event_of_which_enrichment_recorded_nothing_is_in_the_history(world: World) -> None:
    """Firestore was away, or the function never started."""
    data = json.dumps(BODY).encode()
    world.retries.park(letter(ENRICHMENT, data, event_id="e1", received_at="r"))
    (event_history,) = Timeline(world.store, {}).find("1")
    assert (event_history.event_id, event_history.i_account, event_history.owner) == (
        "e1",
        7,
        "account:7",
    )
    assert (event_history.state, event_history.received_at) == ("parked", "r")
    assert [each.handler for each in event_history.deliveries] == ["hss", "iptv"]


def test_a_letter_that_names_its_account_by_no_id_is_parked_all_the_same(world: World) -> None:
    body = {"event_type": "SIM/Updated", "variables": {"i_account": "7x"}}
    world.retries.park(letter(ENRICHMENT, json.dumps(body).encode(), event_id="e1"))
    assert world.parked("enrichment.e1")["i_account"] is None
    assert (world.store.read(world.store.event("e1")) or {})["owner"] == "event:e1"


def test_what_is_parked_tells_why_its_last_attempt_failed(world: World) -> None:
    world.park("e1", ENRICHMENT)
    world.store.event("e1").set({"retry": {"error": "HTTP 502", "at": PAST}}, merge=True)
    (listed,) = Parked(world.store).page(ENRICHMENT, 5).events
    assert listed["reason"] == "HTTP 502"
    world.due("enrichment.e1", last=True)
    assert world.retries.tick().expired == 1
    assert "HTTP 502" in (world.store.read(world.store.event("e1")) or {})["errors"][0]


OPS = Person("ops@acme.example", Role.operator)


@pytest.mark.parametrize("stage", ["hss", ENRICHMENT])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_parked_can_be_sent_now(world: World, stage: str, last: bool) -> None:
    """By the next tick, as at its own time; also what had no try left does not expire by it."""
    world.park("e1", stage)
    world.store.parked(f"{stage}.e1").set({"last": last}, merge=True)
    assert world.retries.tick().sent == 0
    Parked(world.store).send_now(f"{stage}.e1", OPS, "ticket 815")
    (entry,) = world.store.find(world.store.client.collection("audit").limit(9))
    assert (entry["action"], entry["target"], entry["reason"]) == ("send now", "e1", "ticket 815")
    ticked = world.retries.tick()
    assert (ticked.sent, ticked.expired) == (1, 0)
    assert world.parked(f"{stage}.e1")["next_try"] > datetime.now(UTC)


def test_what_cannot_be_sent_now_says_why(world: World) -> None:
    parked = Parked(world.store)
    with pytest.raises(NotParked, match="not parked any more"):
        parked.send_now("hss.e1", OPS, "")
    world.park("e1")
    switch.pause(world.store, "hss", "ann@acme.example", "a new cable")
    with pytest.raises(CannotSendNow, match=r"a new cable.*use up no try"):
        parked.send_now("hss.e1", OPS, "")


def test_what_is_parked_is_read_page_by_page(world: World) -> None:
    for number in range(5):
        world.park(f"e{number}", "hss" if number % 2 else "iptv")
    parked, after, found = Parked(world.store), "", list[str]()
    for size in (2, 2, 1):
        page = parked.page(None, 2, after)
        assert len(page.events) == size
        found += [each["event_id"] for each in page.events]
        after = page.next or ""
    assert (sorted(found), after) == ([f"e{number}" for number in range(5)], "")
    assert [each["stage"] for each in parked.page("hss", 9).events] == ["hss", "hss"]
    with pytest.raises(ValueError, match="is no page"):
        parked.page(None, 2, "nonsense")
