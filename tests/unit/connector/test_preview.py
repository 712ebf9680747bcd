"""What a handler would write, told without writing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from nsps.cloud.store import Store
from nsps.connector.base import Connector
from nsps.connector.console_request import InvalidRequest, read_request
from nsps.connector.preview import Inspected, Inspector, NoState
from nsps.domain.event import RECONCILE, EspfEvent, Owner
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block, PbData
from nsps.portabilling.reader import Reader

from tests.unit.connector.systems import (
    IMSI,
    KI,
    OTHER_IMSI,
    REDACTOR,
    Box,
    DarkBox,
    Kit,
    Letters,
    sim_event,
    went,
)

ME = Owner("account", "1001")


class PortaBilling:
    """What is read of each owner now."""

    def __init__(self, says: Mapping[str, PbData | Exception]) -> None:
        self.says = dict(says)

    def account_behind(self, owner: Owner) -> Owner:
        return owner

    def read_owner(self, owner: Owner, blocks: Iterable[Block]) -> PbData:
        said = self.says.get(str(owner), PbData().read_as(blocks))
        if isinstance(said, Exception):
            raise said
        return said

    def read(self, event: EspfEvent, owner: Owner, blocks: Iterable[Block]) -> PbData:
        return self.read_owner(owner, blocks)


def inspector(store: Store, connector: Connector[Any], **says: Any) -> Inspector:
    blocks = ("account_info", "sim_info")
    settings = Kit(store, connector).settings.model_copy(update={"requires": blocks})
    known = {f"account:{name[1:]}": pb for name, pb in says.items()}
    reader = cast(Reader, PortaBilling(known))
    return Inspector(connector, Inspected(settings, store, reader, lambda: REDACTOR))


def compared(looking: Inspector) -> list[dict[str, Any]]:
    (one,) = looking.compare([ME])
    found: list[dict[str, Any]] = one["resources"]
    return found


def test_missing_same_different_and_left_over_and_nothing_is_written(store: Store) -> None:
    box = Box()
    kit, now = Kit(store, box), sim_event(1)
    looking = inspector(store, box, a1001=now.pb)
    (missing,) = compared(looking)
    assert (missing["what"], missing["against"]) == ("missing", "system")
    assert missing["fields"] == {
        "msisdn": went(None, "447700900001"),
        "active": went(None, True),
    }
    kit.deliver(now)
    assert [each["what"] for each in compared(looking)] == ["same"]
    box.holds[IMSI]["active"] = False
    (different,) = compared(looking)
    assert (different["what"], different["fields"]) == (
        "different",
        {"active": went(False, True)},
    )
    moved = inspector(store, box, a1001=sim_event(2, imsi=OTHER_IMSI).pb)
    assert [(e["key"], e["what"]) for e in compared(moved)] == [
        (IMSI, "left over"),
        (OTHER_IMSI, "missing"),
    ]
    before, writes = kit.everything(), list(box.writes)
    compared(moved)
    moved.preview(now.event, now.event_id)
    assert (kit.everything(), box.writes) == (before, writes)


def test_a_right_system_that_the_ledger_does_not_know(store: Store) -> None:
    box, now = Box(), sim_event(1)
    box.holds[IMSI] = {"msisdn": "447700900001", "active": True}
    assert [e["what"] for e in compared(inspector(store, box, a1001=now.pb))] == ["unrecorded"]


def test_secrets_are_compared_and_never_shown(store: Store) -> None:
    box, now = Box(ki=KI), sim_event(1)
    looking = inspector(store, box, a1001=now.pb)
    shown = json.dumps(compared(looking))
    assert '"from": "***"' not in shown
    assert '"aud": {"from": null, "to": "***"}' in shown
    Kit(store, box).deliver(now)
    assert [e["what"] for e in compared(looking)] == ["same"]  # it does not tell its keys
    box.ki = KI[::-1]
    (different,) = compared(looking)
    assert (different["what"], different["fields"]) == (
        "different",
        {"aud": went(None, "***")},
    )
    assert KI not in shown + json.dumps(different)


def test_a_system_that_cannot_be_asked_is_compared_by_the_ledger(store: Store) -> None:
    box, now = DarkBox(), sim_event(1)
    looking = inspector(store, box, a1001=now.pb)
    assert [(e["what"], e["against"]) for e in compared(looking)] == [("missing", "ledger")]
    Kit(store, box).deliver(now)
    assert [e["what"] for e in compared(looking)] == ["same"]
    barred = inspector(store, box, a1001=sim_event(2, blocked=True).pb)
    (different,) = compared(barred)
    assert (different["what"], different["fields"]) == (
        "different",
        {"active": went(True, False)},
    )


def test_what_is_being_written_is_waited_for(store: Store) -> None:
    box, now = Box(), sim_event(1)
    looking = inspector(store, box, a1001=now.pb)
    found: list[str] = []
    box.seen.before = [None, lambda: found.extend(e["what"] for e in compared(looking))]
    Kit(store, box).deliver(now)
    assert found == ["waiting"]


def test_data_that_can_never_be_written_is_told_redacted(store: Store) -> None:
    (rejected,) = compared(inspector(store, Box(), a1001=sim_event(1, imsi="x").pb))
    assert rejected["what"] == "rejected"
    assert "hunter2" not in rejected["reason"]


def test_one_owner_that_cannot_be_read_does_not_hide_the_others(store: Store) -> None:
    box, other = Box(), Owner("account", "1002")
    away = Transient("PortaBilling is away")
    looking = inspector(store, box, a1001=sim_event(1).pb, a1002=away)
    one, two = looking.compare([ME, other])
    assert [e["what"] for e in one["resources"]] == ["missing"]
    assert [e["what"] for e in two["resources"]] == ["unread"]
    with pytest.raises(Transient, match="away"):
        looking.compare([other])


def test_messages_have_no_state_but_a_preview(store: Store) -> None:
    letters, now = Letters(), sim_event(1)
    looking = inspector(store, letters, a1001=now.pb)
    with pytest.raises(NoState, match="replay"):
        looking.compare([ME])
    assert looking.preview(now.event, now.event_id)["message"]
    assert letters.seen.calls == []


@pytest.mark.parametrize("asked", ["replay", "reconcile"])
def test_a_replay_or_a_repair_writes_what_the_ledger_takes_to_be_so(
    store: Store, asked: str
) -> None:
    box, now = Box(), sim_event(1)
    kit = Kit(store, box)
    kit.deliver(now)
    box.holds.clear()
    kit.deliver(sim_event(2))
    assert box.holds == {}  # no needless write: the ledger is sure
    later = sim_event(3)
    if asked == "replay":
        later = replace(later, run=1)
    else:
        later = replace(later, event=EspfEvent(RECONCILE, later.event.variables))
    kit.deliver(later)
    assert box.holds[IMSI]["active"] is True


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"owners": "account:1"}', b'{"x": 1}', b'{"owners": ["a"], "limit": 0}'],
)
def test_questions_that_cannot_be_understood(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_request(body)


def test_a_hundred_owners_at_once_and_no_more(store: Store) -> None:
    owners = [f"account:{n}" for n in range(101)]
    with pytest.raises(InvalidRequest):
        read_request(json.dumps({"owners": owners}).encode())
    looking = inspector(store, Box())
    found = read_request(json.dumps({"owners": owners[:100]}).encode()).compare(looking)
    assert len(found["owners"]) == 100
    with pytest.raises(InvalidRequest, match="KIND:ID"):
        read_request(b'{"owners": ["account"]}').compare(looking)


def test_an_event_that_names_its_account_by_no_id_would_be_rejected(store: Store) -> None:
    event = EspfEvent("SIM/Updated", {"i_account": [1001]})
    found = inspector(store, Box()).preview(event, "e1")
    assert (found["owner"], found["resources"], found["message"]) == ("event:e1", [], None)
    assert found["rejected"].startswith("i_account should say whom the event is about")
