"""The whole schedule on a simulated clock: 30 days of tries, what is sent, and what ESPF hears.

Time is simulated: Firestore's clock is moved, and the retries' own with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from nsps.cloud.messages import (
    ENRICHMENT,
    EnrichedMessage,
    MalformedMessage,
    PushMessage,
    RawEventMessage,
)
from nsps.cloud.store import Store
from nsps.connector.base import Enriched
from nsps.console.handlers import Handlers
from nsps.delivery.resend import Resend
from nsps.delivery.switch import Switch
from nsps.domain.event import Owner, SnapshotTime
from nsps.domain.outcome import Transient
from nsps.domain.retry import LONG_RETRIES
from nsps.domain.snapshot import PbData
from nsps.flows.retries import SEND_SECONDS, Retries, Ticked, Upkeep
from nsps.flows.schedules import Schedules
from nsps.runtime.settings import HandlerSummary
from nsps.transport.http import Http
from nsps_local.firestore import FirestoreServer

from tests.unit.connector.systems import IMSI, Box, Kit, new_store
from tests.unit.flow_parts import Topics, dead_letter, raw

HOUR = 3600.0
HANDLERS = [
    HandlerSummary(name="hss", connector="x", events=("SIM/*",), group="HSS"),
    HandlerSummary(name="crm", connector="x", events=("SIM/*",), group="CRM"),
]


class Time:
    """The simulated clock: Firestore's, and that of the code under test."""

    def __init__(self, control_url: str) -> None:
        self._url, self.moved = control_url, 0.0

    def advance(self, seconds: float) -> None:
        answer = requests.post(f"{self._url}/clock", json={"advance": seconds}, timeout=10)
        assert answer.ok, answer.text
        self.moved += seconds

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.moved)

    def until(self, moment: datetime) -> None:
        self.advance(max(0.0, (moment - self.now()).total_seconds()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirestoreServer]:
    with FirestoreServer(tmp_path_factory.mktemp("firestore")) as running:
        yield running


@pytest.fixture(scope="module")
def time(server: FirestoreServer) -> Time:
    return Time(server.control_url)


class Rest:
    """The other things that a tick does."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.switches: dict[str, Switch] = {}
        self._now = now

    def tick(self) -> tuple[dict[str, Switch], datetime]:
        return self.switches, self._now()


class NoOrders:
    def tick(self, *_: Any, **__: Any) -> int:
        return 0


class Rig:
    """A handler whose system fails, and the retries."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self.store, self.topics, self.rest = store, Topics(), Rest(now)
        self.box = Box()
        self.kit = Kit(store, self.box)
        rest: Any = self.rest
        orders: Any = NoOrders()
        publisher: Any = self.topics
        self.retries = Retries(
            "demo",
            HANDLERS,
            store,
            Resend(lambda: publisher, "events"),
            Upkeep(self.kit.poster, rest, orders, Schedules(Handlers([], {}, Http()))),
            sleep=lambda _: None,
        )

    def fail(self, message: RawEventMessage | None = None) -> PushMessage:
        """An event that the handler could not deliver, as it becomes a dead letter."""
        message = message or raw()
        self.box.seen.before = [None, Transient("the HLR is off, password=hunter2")]
        event = self.enriched(message)
        assert not self.kit.deliver(event).ack
        return dead_letter(message, "hss")

    def enriched(self, message: RawEventMessage) -> Enriched:
        account = {"i_account": 9, "blocked": False}
        sim = {"imsi": IMSI, "msisdn": "447700900001"}
        return Enriched(
            event_id=message.event_id,
            event=message.event,
            owner=Owner("account", "9"),
            t=SnapshotTime(f"2026-11-21T02:10:03.000000Z/{message.event_id}"),
            pb=PbData.from_contract({"account_info": account, "sim_info": sim}),
            created_at="c",
            updated_at="u",
            run=message.run or 0,
        )

    def parked(self, name: str) -> dict[str, Any]:
        found = self.store.read(self.store.parked(name))
        assert found is not None
        return found

    def delivery(self, message: RawEventMessage) -> dict[str, Any]:
        return self.kit.delivery(self.enriched(message))

    def tick(self) -> Ticked:
        return self.retries.tick()


@pytest.fixture
def rig(server: FirestoreServer, time: Time) -> Rig:
    return Rig(new_store(server.target), time.now)


def test_every_try_of_thirty_days(rig: Rig, time: Time) -> None:
    message = raw()
    letter = rig.fail(message)
    begun = time.now()
    rig.retries.park(letter)
    name = f"hss.{message.event_id}"
    tries: list[float] = []
    while (due := rig.parked(name)["next_try"]) is not None:
        time.until(due - timedelta(seconds=60))
        assert rig.tick() == Ticked(0, 0, 0, 0, {}), "too early"
        time.until(due + timedelta(seconds=1))
        ticked = rig.tick()
        at = (time.now() - begun).total_seconds() / HOUR
        if ticked.expired:
            break
        assert ticked.sent == 1
        tries.append(at)
        assert rig.tick().sent == 0, "once"
    gaps = [after - before for before, after in zip([0.0, *tries], tries, strict=False)]
    nominal = [*LONG_RETRIES.hours, *[LONG_RETRIES.then] * (len(gaps) - len(LONG_RETRIES.hours))]
    for gap, hours in zip(gaps, nominal, strict=True):
        assert hours <= gap + 0.01 and gap <= hours * (1 + LONG_RETRIES.jitter) + 0.1
    assert 28 <= len(tries) <= 34 and tries[-1] <= 30 * 24
    assert 30 * 24 - 0.1 <= at <= 30 * 24 + 2
    attributes = [sent for _, _, sent in rig.topics.sent]
    assert [int(each["rung"]) for each in attributes] == list(range(1, len(tries) + 1))
    assert {(each["event_id"], each["handler"]) for each in attributes} == {
        (message.event_id, "hss")
    }
    assert all(body == message.event.body() for _, body, _ in rig.topics.sent)
    delivery = rig.delivery(message)
    assert delivery["outcome"] == "expired" and delivery["next_try"] is None
    assert "not delivered in 30 days: the HLR is off" in delivery["errors"][0]
    assert rig.kit.espf.statuses == ["RETRY", "FAILED"]
    time.advance(48 * HOUR)
    assert rig.tick() == Ticked(0, 0, 0, 0, {})


def test_a_try_that_succeeds_ends_it(rig: Rig, time: Time) -> None:
    message = raw()
    rig.retries.park(rig.fail(message))
    time.advance(1.2 * HOUR)
    assert rig.tick().sent == 1
    assert rig.kit.deliver(rig.enriched(message)).ack  # it came back through enrichment
    time.advance(40 * 24 * HOUR)
    assert rig.tick() == Ticked(0, 0, 0, 0, {})
    assert len(rig.topics.sent) == 1
    assert rig.kit.espf.statuses == ["RETRY", "OK"]


def test_the_same_dead_letter_twice_is_one(rig: Rig) -> None:
    letter = rig.fail()
    rig.retries.park(letter)
    before = rig.parked(f"hss.{letter.attributes['event_id']}")
    rig.retries.park(letter)
    assert rig.parked(f"hss.{letter.attributes['event_id']}") == before


def test_a_dead_letter_of_what_is_decided_is_not_parked(rig: Rig) -> None:
    message = raw()
    assert rig.kit.deliver(rig.enriched(message)).ack
    rig.retries.park(dead_letter(message, "hss"))
    assert rig.store.read(rig.store.parked(f"hss.{message.event_id}")) is None
    assert rig.delivery(message)["outcome"] == "delivered"


def test_a_tick_cut_off_between_publish_and_record_sends_twice_and_forgets_nothing(
    rig: Rig, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = raw()
    rig.retries.park(dead_letter(message, "hss"))
    time.advance(2 * HOUR)
    with monkeypatch.context() as patched:
        patched.setattr(rig.retries, "_advance", lambda *_: 1 / 0)
        assert rig.tick().sent == 0
    assert len(rig.topics.sent) == 1
    assert rig.tick().sent == 0, "it is held for a while"
    time.advance(SEND_SECONDS + 1)
    assert rig.tick().sent == 1
    assert [attributes["rung"] for _, _, attributes in rig.topics.sent] == ["1", "1"]
    assert rig.parked(f"hss.{message.event_id}")["tries"] == 1


def test_what_cannot_be_published_waits_and_stops_nobody_else(rig: Rig, time: Time) -> None:
    for number in range(3):
        rig.retries.park(dead_letter(raw(variables={"i_event": number}), "hss"))
    time.advance(2 * HOUR)
    rig.topics.faults = [Transient("Pub/Sub is away"), RuntimeError("boom")]
    assert rig.tick().sent == 1
    time.advance(SEND_SECONDS + 1)
    assert rig.tick().sent == 2
    assert {attributes["rung"] for _, _, attributes in rig.topics.sent} == {"1"}


def test_an_event_that_could_not_be_enriched_goes_back_for_all_its_handlers(
    rig: Rig, time: Time
) -> None:
    message = raw()
    entry = rig.store.event(message.event_id)
    entry.set({"state": "received", "handlers": ["hss", "crm"], "i_account": 9, "t": "t"})
    rig.retries.park(dead_letter(message, ENRICHMENT))
    assert (rig.store.read(entry) or {})["state"] == "parked"
    time.advance(2 * HOUR)
    assert rig.tick().sent == 1
    ((_, body, attributes),) = rig.topics.sent
    assert "handler" not in attributes and body == message.event.body()
    for _ in range(80):
        time.advance(12 * HOUR)
        if rig.tick().expired:
            break
    assert (rig.store.read(entry) or {})["state"] == "expired"
    assert {(group, status) for _, group, status, _ in rig.kit.espf.posted} == {
        ("HSS", "FAILED"),
        ("CRM", "FAILED"),
    }


def test_a_replay_that_failed_stays_a_replay(rig: Rig, time: Time) -> None:
    message = replace(raw(), run=3, handler="hss")
    rig.retries.park(dead_letter(message, "hss"))
    assert rig.parked(f"hss.{message.event_id}.3")["run"] == 3
    time.advance(2 * HOUR)
    rig.tick()
    assert rig.topics.sent[0][2]["run"] == "3"


def test_an_enriched_dead_letter_is_sent_as_espf_sent_it(rig: Rig, time: Time) -> None:
    message = raw()
    event = rig.enriched(message)
    enriched = EnrichedMessage(
        event_id=message.event_id,
        event=message.event,
        pb_data={"account_info": {"firstname": "Ann"}},
        t=event.t,
        owner=event.owner,
        received_at=message.received_at,
        created_at="c",
        updated_at="u",
        trace=message.trace,
        handlers=("hss",),
    )
    data, attributes = enriched.to_pubsub()
    source = dead_letter(message, "hss").attributes["CloudPubSubDeadLetterSourceSubscription"]
    attributes["CloudPubSubDeadLetterSourceSubscription"] = source
    rig.retries.park(PushMessage(data, attributes, "m"))
    assert "Ann" not in rig.parked(f"hss.{message.event_id}")["body"]
    time.advance(2 * HOUR)
    rig.tick()
    _, body, sent = rig.topics.sent[0]
    assert body == message.event.body()
    assert (sent["trace_id"], sent["received_at"]) == (message.trace.trace_id, message.received_at)


@pytest.mark.parametrize(("stage", "groups"), [("hss", {"HSS"}), (ENRICHMENT, {"HSS", "CRM"})])
def test_a_function_that_never_started_is_told_of_too(
    rig: Rig, time: Time, stage: str, groups: set[str]
) -> None:
    """It has left nothing in the history; what the message says is enough to tell FAILED."""
    message = raw()
    rig.retries.park(dead_letter(message, stage))
    for _ in range(80):
        time.advance(12 * HOUR)
        if rig.tick().expired:
            break
    assert {(account, group, status) for account, group, status, _ in rig.kit.espf.posted} == {
        (9, group, "FAILED") for group in groups
    }


@pytest.mark.parametrize(
    "subscription",
    ["projects/p/subscriptions/demo-gone", "projects/p/subscriptions/other-hss", ""],
)
def test_a_dead_letter_of_no_subscription_of_ours_is_malformed(rig: Rig, subscription: str) -> None:
    letter = dead_letter(raw(), "hss")
    attributes = {**letter.attributes, "CloudPubSubDeadLetterSourceSubscription": subscription}
    with pytest.raises(MalformedMessage):
        rig.retries.park(PushMessage(letter.data, attributes, "m"))
