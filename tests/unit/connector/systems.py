"""Small external systems of each kind, with connectors for them, and the kit around one of them.

All that is not the external system is real: Firestore (embedded), the ledger, the poster. ESPF's
status call is recorded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

from nsps.cloud.store import Store, from_json, open_store
from nsps.connector.base import (
    Action,
    Answer,
    AsynchronousConnector,
    Call,
    CallbackRefused,
    CallbackRequest,
    Connector,
    Enriched,
    Message,
    MessageConnector,
    Order,
    Ordering,
    Receipt,
    State,
    StateConnector,
)
from nsps.connector.kinds import DeliveryContext, pipeline
from nsps.delivery.gate import Gate
from nsps.delivery.ledger.ledger import Ledger
from nsps.delivery.verdict import Verdict
from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import Terminal
from nsps.espf.poster import Poster
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretValue
from nsps.runtime.settings import HandlerSettings
from nsps_testing.standard import OpenGate, enriched, make_context
from pydantic import BaseModel

KI = "465B5CE8B199B49FAA5F0A2EE238A6BC"
IMSI = "001010000000001"
OTHER_IMSI = "001010000000002"
REDACTOR = Redactor(b"a key of these tests, 32 bytes ..")

_projects = itertools.count(1)
_events = itertools.count(1)

Fault = Exception | Callable[[], None]


def new_store(target: str) -> Store:
    """A store in a project of its own: without documents."""
    with mock.patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": target}):
        return open_store(f"kit-{os.getpid()}-{next(_projects)}", "(default)")


class NoSettings(BaseModel):
    pass


class Seen:
    """What an external system was asked to do, and what it is to do instead."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.before: list[Fault | None] = []
        """What happens instead of the next calls (None: the call itself)."""
        self.after: list[Fault | None] = []
        """What happens once the next calls have taken effect: a lost answer."""

    def take(self, name: str, *what: Any) -> None:
        self.calls.append((name, *what))
        _happen(self.before)

    def done(self) -> None:
        _happen(self.after)

    def names(self) -> list[str]:
        return [str(call[0]) for call in self.calls]


def _happen(faults: list[Fault | None]) -> None:
    fault = faults.pop(0) if faults else None
    if isinstance(fault, Exception):
        raise fault
    if fault is not None:
        fault()


class Box(StateConnector[NoSettings]):
    """A system that holds a state per IMSI; it does not tell the keys it holds."""

    settings_model = NoSettings

    def __init__(self, ki: str | None = None) -> None:
        super().__init__(NoSettings(), make_context())
        self.seen = Seen()
        self.holds: dict[str, dict[str, Any]] = {}
        self.ki = ki

    def check(self, call: Call) -> None: ...

    def desired(self, event: Enriched) -> Mapping[str, State]:
        sim, account = event.pb.sim_info, event.pb.account_info
        if sim is None or account is None or not sim.imsi:
            return {}
        if not sim.imsi.isdigit():
            raise Terminal(f"sim_info.imsi {sim.imsi!r} is not an IMSI, password=hunter2")
        state: dict[str, Any] = {"msisdn": sim.msisdn, "active": not account.blocked}
        if self.ki:
            state["aud"] = SecretValue(self.ki)
        return {sim.imsi: state}

    def read(self, key: str, call: Call) -> State | None:
        self.seen.take("read", key)
        held = self.holds.get(key)
        return None if held is None else {k: v for k, v in held.items() if k != "aud"}

    def create(self, key: str, state: State, call: Call) -> None:
        self.seen.take("create", key, dict(state))
        self.holds[key] = dict(state)
        self.seen.done()

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.seen.take("change", key, dict(state), dict(was))
        self.holds[key] = dict(state)
        self.seen.done()

    def delete(self, key: str, was: State | None, call: Call) -> None:
        self.seen.take("delete", key, was)
        self.holds.pop(key, None)
        self.seen.done()

    @property
    def writes(self) -> list[str]:
        return [name for name in self.seen.names() if name != "read"]


class SignallingBox(Box):
    """One whose subscribers' sessions have to be told of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[tuple[str, State | None, State | None]] = []
        self.faults: list[Fault] = []
        """What happens to the next signals."""

    def after_write(self, key: str, state: State | None, was: State | None, call: Call) -> None:
        self.signals.append((key, state, was))
        _happen(self.faults)  # type: ignore[arg-type]


class DarkBox(Box):
    """One that cannot be asked."""

    readable = False

    def read(self, key: str, call: Call) -> State | None:
        raise AssertionError("it cannot be read")


class Letters(MessageConnector[NoSettings]):
    """Sends a letter for each event; none to those without an e-mail address."""

    settings_model = NoSettings

    def __init__(self, ordering: Ordering = Ordering.EVERY, answer: str = "250 queued") -> None:
        super().__init__(NoSettings(), make_context())
        self.seen = Seen()
        self.order, self.answer = ordering, answer

    @property
    def ordering(self) -> Ordering:
        return self.order

    def check(self, call: Call) -> None: ...

    def message(self, event: Enriched) -> Message | None:
        account = event.pb.account_info
        if account is None or not account.email:
            return None
        if "@" not in account.email:
            raise Terminal("the address is none, token=abcdef0123")
        return Message(f"letter about {event.event.event_type}", event.updated_at)

    def send(self, message: Message, call: Call) -> str | Receipt:
        self.seen.take("send", message.content, call.reference)
        self.seen.done()
        return self.answer


class Clerk(AsynchronousConnector[NoSettings]):
    """Takes orders; answers when the test says so."""

    settings_model = NoSettings

    def __init__(self) -> None:
        super().__init__(NoSettings(), make_context())
        self.seen = Seen()
        self.orders: list[Order] = []

    def check(self, call: Call) -> None: ...

    def desired(self, event: Enriched) -> Mapping[str, State]:
        sim, account = event.pb.sim_info, event.pb.account_info
        if sim is None or account is None or not sim.imsi:
            return {}
        if not sim.imsi.isdigit():
            raise Terminal("not an IMSI")
        return {sim.imsi: {"msisdn": sim.msisdn, "active": not account.blocked}}

    def submit(self, order: Order, call: Call) -> str:
        self.seen.take("submit", order.action, order.key)
        known = [each.reference for each in self.orders]
        if order.reference not in known:
            self.orders.append(order)
            known.append(order.reference)
        self.seen.done()
        return f"so-{known.index(order.reference) + 1}"

    def authenticate(self, request: CallbackRequest) -> None:
        if request.headers.get("X-Proof") != "right":
            raise CallbackRefused("no proof")

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        raise NotImplementedError

    @property
    def actions(self) -> list[Action]:
        return [order.action for order in self.orders]


def went(before: Any, after: Any) -> dict[str, Any]:
    """How a field that was changed is shown."""
    return {"from": before, "to": after}


class Espf:
    """ESPF's status API: remembers what it was told."""

    def __init__(self) -> None:
        self.posted: list[tuple[int, str, str, str]] = []
        self.faults: list[Exception | None] = []

    def post(self, i_account: int, group: str, status: str, message: str) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        self.posted.append((i_account, group, status, message))

    @property
    def statuses(self) -> list[str]:
        return [status for _, _, status, _ in self.posted]


class Kit:
    """The kit around one connector, for a handler named ``handler``."""

    def __init__(
        self,
        store: Store,
        connector: Connector[Any],
        *,
        group: str | None = "HSS",
        handler: str = "hss",
        call_seconds: float = 5.0,
        answer_hours: float = 24.0,
        gate: Gate | None = None,
    ) -> None:
        self.store, self.espf, self.handler = store, Espf(), handler
        self.ledger = Ledger(store)
        self.poster = Poster(store, lambda: self.espf)
        self.settings = HandlerSettings(
            name=handler,
            connector="sample",
            events=("SIM/*",),
            group=group,
            call_timeout_seconds=call_seconds,
            answer_within_hours=answer_hours,
        )
        context = DeliveryContext(
            self.settings, self.ledger, self.poster, lambda: REDACTOR, gate or OpenGate()
        )
        self.pipeline = pipeline(connector, context)

    def deliver(self, event: Enriched) -> Verdict:
        return self.pipeline.deliver(event)

    def delivery(self, event: Enriched) -> dict[str, Any]:
        found = self.store.read(self.store.delivery(self.handler, event.delivery_id))
        assert found is not None
        for result in found.get("results", []):
            if "fields" in result:
                result["fields"] = from_json(result["fields"])
        return found

    def resource(self, key: str) -> dict[str, Any]:
        found = self.store.read(self.store.resource(self.handler, key))
        assert found is not None
        return {**found, "state": from_json(found.get("state"))}

    def free(self, key: str) -> None:
        """The time of a lease is over."""
        at = self.store.resource(self.handler, key)
        at.set({"lease_until": self.resource(key)["changed_at"]}, merge=True)

    def read_again(self, event: Enriched, second: int) -> Enriched:
        """The event's newer copy, as enrichment sends it."""
        t = SnapshotTime(f"2026-11-21T02:10:{second:02}.000000Z/{event.event_id}")
        return replace(event, t=t)

    def waited(self, event: Enriched) -> None:
        """The time is over for which the system asked to be left alone."""
        kept = self.delivery(event)
        retry = kept["retry"] | {"not_before": kept["begun_at"]}
        self.store.delivery(self.handler, event.delivery_id).set({"retry": retry}, merge=True)

    def everything(self) -> str:
        """All that Firestore holds, as text."""
        client = self.store.client
        found: list[Any] = []

        def walk(collections: Any) -> None:
            for collection in collections:
                for snapshot in collection.stream():
                    found.append((snapshot.reference.path, snapshot.to_dict()))
                    walk(snapshot.reference.collections())

        walk(client.collections())
        for handler in ("deliveries", "resources", "owners", "orders"):
            group = client.collection_group(handler)
            found += [(s.reference.path, s.to_dict()) for s in group.stream()]
        return repr(found)


def sim_event(
    second: int = 1,
    *,
    i_account: int = 1001,
    imsi: str | None = IMSI,
    blocked: bool = False,
    msisdn: str = "447700900001",
    email: str | None = None,
    i_event: int | None = None,
    account: bool = True,
    event_type: str = "SIM/Updated",
    says: Mapping[str, Any] | None = None,
) -> Enriched:
    """An event about an account, whose snapshot was read at that second; its own id each time.

    ``says``: further variables.
    """
    pb: dict[str, Any] = {}
    if account:
        pb["account_info"] = {"i_account": i_account, "blocked": blocked, "email": email}
    if imsi is not None:
        pb["sim_info"] = {"imsi": imsi, "msisdn": msisdn}
    number = i_event if i_event is not None else next(_events)
    return enriched(
        pb,
        event_type=event_type,
        variables={"i_event": number, "i_account": i_account, **(says or {})},
        t=f"2026-11-21T02:10:{second:02}.000000Z",
    )
