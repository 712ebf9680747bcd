"""Enrichment: one history entry, one read that is fresh, one message, whatever happens between."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from nsps.cloud.messages import MalformedMessage
from nsps.cloud.store import Store, StoreRefused, StoreUnavailable
from nsps.console.explanation import Systems, explain_event
from nsps.delivery.gate import Gate
from nsps.delivery.history import UNREADABLE, History, kept_event, unpacked
from nsps.delivery.switch import Switches
from nsps.delivery.timeline import Timeline, Wanted
from nsps.domain.event import EspfEvent, Owner, SnapshotTime
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block, PbData
from nsps.flows.enrichment import Enrichment
from nsps.flows.reading import NotAsked, PortaBillingApi, Reading
from nsps.portabilling.freshness import Fresh, FreshReads
from nsps.runtime.secrets import SecretUnavailable
from nsps.runtime.settings import HandlerSummary

from tests.unit.connector.systems import REDACTOR, new_store
from tests.unit.flow_parts import Topics, raw

HANDLERS = [
    HandlerSummary.model_validate_json(json.dumps({"connector": "x", **handler}))
    for handler in (
        {"name": "hss", "events": ["SIM/*"], "requires": ["sim_info"]},
        {"name": "crm", "events": ["SIM/*", "Account/*"], "requires": ["account_info"]},
        {"name": "audit", "events": ["Invoice/*"]},
    )
]


class FakeReader:
    """A PortaBilling that knows account 9 with card 3793."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, frozenset[Block]]] = []
        self.faults: list[Exception] = []
        self.firstname = "Ann"
        self.damaged: frozenset[str] = frozenset()
        self.given_out = ""
        """A card that nobody has when that is asked, and account 9 when the card is read."""

    def account_behind(self, owner: Owner) -> Owner:
        return Owner("account", "9") if str(owner) == "sim:3793" else owner

    def read_fresh(
        self,
        reads: FreshReads[PbData],
        event: EspfEvent,
        owner: Owner,
        blocks: Iterable[Block],
        received: SnapshotTime,
    ) -> Fresh[PbData]:
        wanted = frozenset(blocks)

        def read() -> PbData:
            self.reads.append((str(owner), wanted))
            if self.faults:
                raise self.faults.pop(0)
            if owner.kind == "sim" and owner.id != self.given_out:
                return PbData().read_as(wanted)
            account = {"i_account": 9, "firstname": self.firstname}
            return PbData.from_contract({"account_info": account}, wanted).with_damage(self.damaged)

        return reads.get((owner, wanted), received, read)


class Rig:
    def __init__(self, store: Store) -> None:
        self.store, self.topics, self.reader = store, Topics(), FakeReader()
        self.history = History(store, lambda: REDACTOR)
        publisher: Any = self.topics
        reader: Any = self.reader
        switches = Switches(store)
        self.enrichment = Enrichment(
            HANDLERS,
            "enriched",
            self.history,
            publisher,
            lambda: reader,
            FreshReads(),
            Reading(Gate(PortaBillingApi(), switches), switches),
        )

    def entry(self, message: Any) -> dict[str, Any]:
        found = self.store.read(self.store.event(message.event_id))
        assert found is not None
        return found


@pytest.fixture
def rig(target: str) -> Rig:
    return Rig(new_store(target))


def test_an_event_is_read_published_and_recorded(rig: Rig) -> None:
    message = raw()
    rig.enrichment.handle(message)
    ((topic, body, attributes),) = rig.topics.sent
    assert topic == "enriched"
    assert body["event_id"] == message.event_id and body["data"]["event_type"] == "SIM/Updated"
    assert body["pb_data"]["account_info"]["firstname"] == "Ann"
    assert (attributes["hss"], attributes["crm"]) == ("1", "1") and "audit" not in attributes
    assert attributes["owner"] == "account:9"
    assert attributes["received_at"] == message.received_at
    assert attributes["trace_id"] == message.trace.trace_id
    entry = rig.entry(message)
    assert entry["state"] == "enriched" and entry["handlers"] == ["hss", "crm"]
    assert entry["t"] == attributes["t"] and entry["t"].endswith(f"/{message.event_id}")
    assert unpacked(entry["snapshot"]) == body["pb_data"]
    assert body["read"] == ["account_info", "sim_info"]
    assert rig.reader.reads == [("account:9", frozenset({Block.SIM_INFO, Block.ACCOUNT_INFO}))]


def test_a_damaged_answer_is_in_the_history(rig: Rig) -> None:
    message = raw()
    rig.reader.damaged = frozenset({"account_info"})
    rig.enrichment.handle(message)
    (event_history,) = Timeline(rig.store, {}).find(message.event_id)
    assert event_history.damaged == ("account_info",)
    assert "damaged" not in json.dumps(rig.topics.sent[0][1])


def test_while_portabilling_is_down_events_wait_uncalled_and_visibly(rig: Rig) -> None:
    Switches(rig.store).open("portabilling", 20, "HTTP 502")
    message = raw()
    with pytest.raises(NotAsked):
        rig.enrichment.handle(message)
    assert (rig.reader.reads, rig.topics.sent) == ([], [])
    retry = rig.entry(message)["retry"]
    assert "PortaBilling is not asked now" in retry["error"] and "HTTP 502" in retry["error"]


def test_a_copy_is_neither_read_nor_published_again(rig: Rig) -> None:
    message = raw()
    for _ in range(3):
        rig.enrichment.handle(message)
    assert len(rig.topics.sent) == len(rig.reader.reads) == 1


def test_copies_at_once_make_one_entry(rig: Rig) -> None:
    message = raw()
    gate = threading.Barrier(6)

    def handle() -> None:
        gate.wait(10)
        rig.enrichment.handle(message)

    threads = [threading.Thread(target=handle) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    entries = list(rig.store.events().stream())
    assert [entry.id for entry in entries] == [message.event_id]
    assert {body["event_id"] for _, body, _ in rig.topics.sent} == {message.event_id}
    assert 1 <= len(rig.topics.sent) <= 6


def test_cut_off_before_the_publish_it_is_done_again(rig: Rig) -> None:
    message = raw()
    rig.topics.faults = [Transient("Pub/Sub is away")]
    with pytest.raises(Transient):
        rig.enrichment.handle(message)
    assert rig.entry(message)["state"] == "received"
    rig.reader.firstname = "Beth"
    rig.enrichment.handle(message)
    ((_, body, attributes),) = rig.topics.sent
    assert body["pb_data"]["account_info"]["firstname"] == "Beth", "read again, not remembered"
    assert rig.entry(message)["t"] == attributes["t"]


def test_cut_off_between_publish_and_record_it_is_published_again_and_newer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = raw()

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("Firestore is away")

    with monkeypatch.context() as patched:
        patched.setattr(rig.history, "enriched", away)
        with pytest.raises(StoreUnavailable):
            rig.enrichment.handle(message)
    rig.enrichment.handle(message)
    first, second = (attributes for _, _, attributes in rig.topics.sent)
    assert first["event_id"] == second["event_id"] and first["t"] < second["t"]
    assert rig.entry(message)["state"] == "enriched"


def test_an_event_that_nobody_wants_is_recorded_and_not_read(rig: Rig) -> None:
    message = raw("Customer/New", {"i_event": 2, "i_customer": 5})
    rig.enrichment.handle(message)
    entry = rig.entry(message)
    assert (entry["state"], entry["owner"], entry["handlers"]) == ("unhandled", "customer:5", [])
    assert rig.topics.sent == [] and rig.reader.reads == []


def test_a_handler_that_requires_nothing_costs_no_read(rig: Rig) -> None:
    message = raw("Invoice/Created", {"i_event": 3, "i_invoice": 5})
    rig.enrichment.handle(message)
    ((_, body, attributes),) = rig.topics.sent
    assert rig.reader.reads == [] and not body["pb_data"]
    assert attributes["t"].endswith(f"/{message.event_id}")


def test_a_read_that_fails_is_recorded_without_secrets_and_made_again(rig: Rig) -> None:
    message = raw()
    rig.reader.faults = [Transient("PortaBilling said password=hunter2", retry_after=3)]
    with pytest.raises(Transient):
        rig.enrichment.handle(message)
    entry = rig.entry(message)
    assert entry["state"] == "received"
    assert entry["retry"]["error"] == "PortaBilling said password=***"
    rig.enrichment.handle(message)
    entry = rig.entry(message)
    assert entry["state"] == "enriched"
    assert entry["retry"]["error"] == "PortaBilling said password=***"  # what failed before stays


def test_a_failure_that_cannot_be_recorded_is_the_same_failure(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailable("Firestore is away")

    monkeypatch.setattr(rig.history, "failed", away)
    rig.reader.faults = [Transient("PortaBilling is away")]
    with pytest.raises(Transient, match="PortaBilling is away"):
        rig.enrichment.handle(raw())


def test_an_event_that_names_only_a_card_belongs_to_the_account_behind_it(rig: Rig) -> None:
    message = raw("SIM/Updated", {"i_event": 4, "i_sim_card": 3793})
    rig.enrichment.handle(message)
    assert rig.topics.sent[0][2]["owner"] == "account:9"
    entry = rig.entry(message)
    assert (entry["owner"], entry["i_account"]) == ("account:9", 9)
    unknown = raw("SIM/Updated", {"i_event": 5, "i_sim_card": 1})
    rig.enrichment.handle(unknown)
    assert rig.entry(unknown)["owner"] == "sim:1"


def test_a_card_given_out_between_the_two_reads_belongs_to_the_account(rig: Rig) -> None:
    rig.reader.given_out = "2"
    message = raw("SIM/Created", {"i_event": 6, "i_sim_card": 2})
    rig.enrichment.handle(message)
    assert rig.topics.sent[0][2]["owner"] == "account:9"
    assert rig.entry(message)["owner"] == "account:9"
    assert [owner for owner, _ in rig.reader.reads] == ["sim:2", "account:9"]


def test_a_replay_goes_to_its_one_handler_with_a_fresh_read(rig: Rig) -> None:
    message = raw()
    rig.enrichment.handle(message)
    rig.reader.firstname = "Beth"
    rig.enrichment.handle(raw(handler="crm", run=2, retry_round=3))
    _, body, attributes = rig.topics.sent[1]
    assert body["pb_data"]["account_info"]["firstname"] == "Beth"
    assert attributes["crm"] == "1" and "hss" not in attributes
    assert (attributes["run"], attributes["rung"]) == ("2", "3")
    assert attributes["t"] > rig.topics.sent[0][2]["t"]
    assert rig.reader.reads[1][1] == frozenset({Block.ACCOUNT_INFO})
    assert rig.entry(message)["handlers"] == ["hss", "crm"]
    rig.enrichment.handle(raw(handler="gone"))  # a handler that was taken away meanwhile
    assert len(rig.topics.sent) == 2


def test_a_replay_before_the_event_was_read_leaves_it_to_come_to_all(rig: Rig) -> None:
    rig.reader.faults = [Transient("HTTP 502")]
    message = raw()
    with pytest.raises(Transient):
        rig.enrichment.handle(message)
    rig.enrichment.handle(raw(handler="hss", run=1))
    entry = rig.entry(message)
    assert (entry["state"], entry.get("enriched_at")) == ("received", None)
    assert "HTTP 502" in entry["retry"]["error"]
    rig.enrichment.handle(message)
    (_, _, replayed), (_, _, original) = rig.topics.sent
    assert "crm" not in replayed and original["crm"] == "1"
    assert rig.entry(message)["state"] == "enriched"


def test_a_replay_that_cannot_be_read_fails_by_itself(rig: Rig) -> None:
    message = raw()
    rig.enrichment.handle(message)
    rig.reader.faults = [Transient("HTTP 502")]
    with pytest.raises(Transient):
        rig.enrichment.handle(raw(handler="hss", run=1))
    assert rig.entry(message).get("retry") is None
    replayed = rig.store.delivery("hss", f"{message.event_id}.1")
    failed = rig.store.read(replayed) or {}
    assert "HTTP 502" in failed["retry"]["error"]
    assert (failed["outcome"], bool(failed["begun_at"])) == (None, True), "lists find it"
    replayed.set({"outcome": "delivered"}, merge=True)
    rig.reader.faults = [Transient("HTTP 502")]
    with pytest.raises(Transient):
        rig.enrichment.handle(raw(handler="hss", run=1))
    copy = rig.store.read(replayed) or {}
    assert (copy["outcome"], copy["begun_at"]) == ("delivered", failed["begun_at"])


def test_who_wants_an_event_may_change_before_it_is_read(rig: Rig) -> None:
    """A deployment between two tries: the history names those that the event was sent to."""
    message, replayed = raw(), {"iptv": {"n": 1, "job": "j", "only": True}}
    rig.reader.faults = [Transient("HTTP 502")] * 2
    with pytest.raises(Transient):
        rig.enrichment.handle(message)
    rig.store.event(message.event_id).set(
        {"handlers": ["hss", "iptv", "gone"], "runs": replayed}, merge=True
    )
    with pytest.raises(Transient):
        rig.enrichment.handle(raw(handler="hss", run=1))
    assert rig.entry(message)["handlers"] == ["hss", "iptv", "gone"]  # a replay changes nothing
    rig.enrichment.handle(message)
    assert rig.entry(message)["handlers"] == ["hss", "crm", "iptv"]
    ((_, _, attributes),) = rig.topics.sent
    assert attributes["crm"] == "1" and "gone" not in attributes


def test_an_event_that_no_handler_wants_any_more_is_finished(rig: Rig) -> None:
    message = raw("Voucher/Used")
    retry = {"error": "HTTP 502"}
    rig.enrichment.handle(message)
    rig.store.event(message.event_id).set(
        {"handlers": ["gone"], "state": "parked", "retry": retry}, merge=True
    )
    rig.enrichment.handle(message)
    entry = rig.entry(message)
    assert (entry["state"], entry["handlers"], entry["retry"]) == ("unhandled", [], None)


def test_events_of_one_owner_have_times_in_the_order_in_which_they_were_received(rig: Rig) -> None:
    for number in range(5):
        rig.enrichment.handle(raw(variables={"i_event": 10 + number, "i_account": 9}))
    times = [attributes["t"] for _, _, attributes in rig.topics.sent]
    assert times == sorted(times) and len(set(times)) == 5


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"variables": {}}', b"\xff"])
def test_what_is_no_event_is_malformed(rig: Rig, body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        rig.enrichment.handle(replace(raw(), body=body))


def test_a_name_cut_in_the_middle_of_a_character_stops_nothing(rig: Rig) -> None:
    """A database that cuts names by bytes can send half of an emoji."""
    rig.reader.firstname = "Ann \ud83d"
    message = raw(variables={"i_event": 20, "i_account": 9, "firstname": "Ann \ud83d"})
    rig.enrichment.handle(message)
    assert rig.entry(message)["state"] == "enriched"


def test_a_snapshot_too_large_for_the_history_is_published_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsps.delivery.history.MAX_SNAPSHOT_BYTES", 10)
    message = raw()
    rig.enrichment.handle(message)
    entry = rig.entry(message)
    assert entry["snapshot"] is None and entry["snapshot_bytes"] > 10
    assert unpacked(entry["snapshot"]) is None
    assert rig.topics.sent[0][1]["pb_data"]["account_info"]["firstname"] == "Ann"


# Variables that Firestore has no form for.
STRANGE: dict[str, Any] = {
    "iccid": 89445012345678901234,  # 20 digits, sent as a number
    "": 1,
    "__x__": {"": {"": ""}},
    "n" * 2000: [[1, [2]], [[]]],
    "half": "\ud83d",
    "\ud83d": "half",
    "deep": json.loads('{"x":' * 40 + "1" + "}" * 40),
    "large": 1.7e308,
}


def test_whatever_was_accepted_is_kept_in_the_history(rig: Rig) -> None:
    message = raw(variables={"i_event": 30, "i_account": 9, "password": "hunter2", **STRANGE})
    rig.enrichment.handle(message)
    assert rig.topics.sent[0][1]["data"] == message.event.body()
    entry = rig.entry(message)
    assert entry["state"] == "enriched"
    event = kept_event(entry)
    assert event is not None and event.event_type == "SIM/Updated"
    whole = {**STRANGE, "i_event": 30, "i_account": 9, "half": "?", "?": "half", "password": "***"}
    del whole["\ud83d"]
    assert event.variables == whole


def test_entries_of_an_older_release_are_read() -> None:
    entry = {"event_type": "SIM/Updated", "variables": {"i_account": 9}}
    assert kept_event(entry) == EspfEvent("SIM/Updated", {"i_account": 9})
    assert kept_event({"event_type": "SIM/Updated"}) is None


@pytest.mark.parametrize("where", ["_first", "open"])
def test_a_failure_that_nobody_foresaw_is_the_events_own(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Also where it kept the entry itself from being written; the next try completes it."""

    def fails(*_: Any) -> Any:
        raise OverflowError("hunter2")

    message = raw()
    with monkeypatch.context() as broken, pytest.raises(OverflowError):
        broken.setattr(rig.history, where, fails)
        rig.enrichment.handle(message)
    (event_history,) = Timeline(rig.store, {}).find("1")
    assert (event_history.event_id, event_history.owner, event_history.state) == (
        message.event_id,
        "account:9",
        "received",
    )
    assert [each.handler for each in event_history.deliveries] == ["hss", "crm"]
    assert event_history.retry is not None and "OverflowError" in event_history.retry["error"]
    assert "hunter2" not in event_history.retry["error"] and kept_event(rig.entry(message)) is None
    opened = rig.entry(message)["opened_at"]
    rig.enrichment.handle(message)
    entry = rig.entry(message)
    assert (entry["state"], entry["opened_at"]) == ("enriched", opened)
    assert kept_event(entry) == message.event


def test_a_failure_after_the_entry_is_written_is_recorded_too(rig: Rig) -> None:
    rig.reader.faults = [ZeroDivisionError("x")]
    message = raw()
    with pytest.raises(ZeroDivisionError):
        rig.enrichment.handle(message)
    assert "ZeroDivisionError" in rig.entry(message)["retry"]["error"]
    assert kept_event(rig.entry(message)) == message.event
    rig.topics.faults = [Transient("Pub/Sub is away")]
    with pytest.raises(Transient):
        rig.enrichment.handle(message)
    assert rig.entry(message)["retry"]["error"] == "Pub/Sub is away"


def test_an_unforeseen_failure_of_a_replay_is_the_replays(rig: Rig) -> None:
    message = raw()
    rig.enrichment.handle(message)
    rig.reader.faults = [ZeroDivisionError("x")]
    with pytest.raises(ZeroDivisionError):
        rig.enrichment.handle(raw(handler="hss", run=1))
    assert not rig.entry(message).get("retry")
    failed = rig.store.read(rig.store.delivery("hss", f"{message.event_id}.1")) or {}
    assert "ZeroDivisionError" in failed["retry"]["error"]


def test_an_event_that_cannot_be_read_is_in_the_history(rig: Rig) -> None:
    message = replace(raw(), body=b'{"event_type": "SIM/X", "variables": {"x": Infinity}}')
    with pytest.raises(MalformedMessage):
        rig.enrichment.handle(message)
    (event_history,) = Timeline(rig.store, {}).latest(5)
    assert (event_history.event_id, event_history.event_type, event_history.final) == (
        message.event_id,
        UNREADABLE,
        False,
    )
    assert event_history.retry is not None and "Infinity" in event_history.retry["error"]


def test_what_firestore_refuses_is_recorded_without_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry beyond Firestore's own limits: it answers InvalidArgument."""
    message = raw()
    huge = {"x": "x" * 1_100_000}
    monkeypatch.setattr(REDACTOR, "for_store", lambda _: huge)
    with pytest.raises(StoreRefused):
        rig.enrichment.handle(message)
    assert "does not take" in rig.entry(message)["retry"]["error"]


def test_a_reason_is_not_kept_while_it_cannot_be_redacted(rig: Rig) -> None:
    def unknown() -> Any:
        raise SecretUnavailable("secret digest: HTTP 503")

    history = History(rig.store, unknown)
    message = raw()
    history.failed(message, message.event, ["hss"], "password=hunter2")
    assert "hunter2" not in str(rig.entry(message)["retry"])


@pytest.mark.parametrize("i_account", [9.0, "09", " 9 "])
def test_an_account_is_the_same_however_it_is_spelled(rig: Rig, i_account: Any) -> None:
    message = raw(variables={"i_event": 40, "i_account": i_account})
    rig.enrichment.handle(message)
    assert rig.topics.sent[0][2]["owner"] == "account:9"
    assert (rig.entry(message)["owner"], rig.entry(message)["i_account"]) == ("account:9", 9)
    assert [owner for owner, _ in rig.reader.reads] == ["account:9"]


def test_an_event_that_names_its_account_by_no_id_is_rejected(rig: Rig) -> None:
    """It is about somebody: not about another owner, and not about nobody, with all unchanged."""
    message = raw(variables={"i_event": 41, "i_account": "9x", "i_customer": 6})
    rig.enrichment.handle(message)  # and is done with: another try would read the same
    assert rig.topics.sent == [] and rig.reader.reads == []
    (event_history,) = Timeline(rig.store, {}).find("41")
    assert (event_history.state, event_history.final, event_history.i_account) == (
        "rejected",
        True,
        None,
    )
    assert [(each.handler, each.outcome) for each in event_history.deliveries] == [
        ("hss", "rejected"),
        ("crm", "rejected"),
    ]
    assert event_history.retry is not None
    error = event_history.retry["error"]
    assert error.startswith('i_account should say whom the event is about, and is no id: "9x".')
    words = explain_event(event_history, Systems())
    said = " ".join(line.text for line in words.happened)
    assert error in said and "PortaBilling was asked" not in said
    assert [each.command for each in words.advice] == [
        "nsps reconcile hss --account I_ACCOUNT",
        "nsps reconcile crm --account I_ACCOUNT",
    ]
    page = Timeline(rig.store, {}).page(Wanted(outcomes=frozenset({"rejected"})), 5)
    assert [each.event_id for each in page.histories] == [message.event_id]


def test_a_replay_of_it_is_rejected_by_itself(rig: Rig) -> None:
    variables = {"i_event": 42, "i_account": [9]}
    rig.enrichment.handle(raw(variables=variables))
    message = raw(variables=variables, handler="hss", run=1)
    rig.enrichment.handle(message)
    delivery = rig.store.read(rig.store.delivery("hss", f"{message.event_id}.1")) or {}
    assert delivery["outcome"] == "rejected" and delivery["errors"][0].startswith("i_account")


def test_an_event_that_nobody_wants_may_say_what_it_likes(rig: Rig) -> None:
    message = raw("DID/Assigned", {"i_event": 43, "i_account": [9]})
    rig.enrichment.handle(message)
    assert rig.entry(message)["state"] == "unhandled"
