"""What a handler would write, and how its system differs from PortaBilling; nothing is written.

``preview`` is for one event (or one owner) as if it came now; ``compare`` for many owners, each
read afresh. Neither takes a lease, so what is being written meanwhile is ``waiting``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nsps.cloud.store import Store, from_json
from nsps.connector.base import (
    AsynchronousConnector,
    Call,
    Connector,
    Enriched,
    MessageConnector,
    State,
    StateConnector,
)
from nsps.connector.difference import changed, differences, plain, shown
from nsps.delivery.ledger.documents import Resource
from nsps.domain.event import RECONCILE, EspfEvent, Owner, SnapshotTime, UnreadableOwner, owner_of
from nsps.domain.outcome import DeliveryError, Terminal, Transient
from nsps.domain.snapshot import PbData
from nsps.runtime.redact import Redactor
from nsps.runtime.settings import HandlerSettings
from nsps.transport.deadline import Deadline

if TYPE_CHECKING:
    from nsps.portabilling.reader import Reader

MAX_OWNERS = 100
MAX_PAGE = 250
"""Accounts of a list that are compared at once."""
AT_ONCE = 8


class Comparison(StrEnum):
    """How a resource is found."""

    SAME = "same"
    MISSING = "missing"  # PortaBilling has it, the system does not
    DIFFERENT = "different"
    LEFT_OVER = "left over"  # written by NSPS, and PortaBilling does not have it any more
    UNRECORDED = "unrecorded"  # the system has it, but the ledger does not say so
    WAITING = "waiting"  # something is being written this moment, or has been ordered
    REJECTED = "rejected"  # PortaBilling's data can never be written to this system
    UNREAD = "unread"  # PortaBilling or the system could not be asked


@dataclass(frozen=True, slots=True)
class Compared:
    """One resource. ``against``: system or ledger. ``fields``: {name: {from, to}}."""

    key: str
    what: Comparison
    against: str = "ledger"
    fields: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "what": self.what.value,
            "against": self.against,
            "fields": dict(self.fields),
            "reason": self.reason,
        }


class NoState(Exception):
    """The handler keeps no state that could be compared."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What an inspector needs, made once per instance."""

    handler: HandlerSettings
    store: Store
    reader: Reader
    redactor: Callable[[], Redactor]


class Inspector:
    """Looks, and never touches; safe to share between threads."""

    def __init__(self, connector: Connector[Any], context: Inspected) -> None:
        self._connector, self.context = connector, context
        self._blocks = frozenset(context.handler.requires)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="compare")

    # ---- one event ---------------------------------------------------------------------------

    def preview(
        self, event: EspfEvent, event_id: str, owner: Owner | None = None
    ) -> dict[str, Any]:
        """What the event would bring about if it came now. Raises Transient."""
        reader = self.context.reader
        try:
            owner = reader.account_behind(owner or owner_of(event, event_id))
        except UnreadableOwner as error:
            reason = self.context.redactor().text_for_store(str(error))
            nothing = {"owner": str(Owner("event", event_id)), "resources": []}
            return {**nothing, "message": None, "rejected": reason}
        pb = reader.read(event, owner, self._blocks)
        enriched = self.enriched(event, event_id, owner, pb)
        with self.context.redactor().knowing(enriched.pb.to_contract()):
            if isinstance(self._connector, MessageConnector):
                return {"owner": str(owner), "resources": [], **self._message(enriched)}
            found = [each.to_json() for each in self.resources(enriched)]
        return {"owner": str(owner), "resources": found, "message": None}

    def _message(self, enriched: Enriched) -> dict[str, Any]:
        assert isinstance(self._connector, MessageConnector)
        redact = self.context.redactor().text_for_store
        try:
            message = self._connector.message(enriched)
        except Terminal as error:
            return {"message": None, "rejected": redact(str(error))}
        return {"message": redact(message.summary) if message else "nothing to send"}

    # ---- many owners -------------------------------------------------------------------------

    def compare(self, owners: Sequence[Owner], *, known: int = 0) -> list[dict[str, Any]]:
        """Each owner with its resources. ``known``: how many others were compared already. Raises
        NoState; Transient if none could be compared."""
        if isinstance(self._connector, MessageConnector):
            raise NoState(
                f"{self.context.handler.name} sends messages and keeps no state: "
                "there is nothing to compare; replay its events instead"
            )
        tasks = [self._pool.submit(copy_context().run, self._compared, each) for each in owners]
        results = [task.result() for task in tasks]
        failed = [found[0].reason for _, found in results if _unread(found)]
        if failed and len(failed) == len(results) + known:
            raise Transient(failed[0])
        return [
            {"owner": str(owner), "resources": [each.to_json() for each in found]}
            for owner, found in results
        ]

    def _compared(self, owner: Owner) -> tuple[Owner, list[Compared]]:
        try:
            enriched = self.read_now(owner)
            with self.context.redactor().knowing(enriched.pb.to_contract()):
                return owner, self.resources(enriched)
        except DeliveryError as error:
            reason = self.context.redactor().text_for_store(str(error))
            return owner, [Compared("", Comparison.UNREAD, reason=reason)]

    def read_now(self, owner: Owner, event_id: str = "") -> Enriched:
        """The owner as PortaBilling has it at this moment. Raises Transient."""
        before = _now()  # of its snapshot: what changes while it is read is newer
        behind = self.context.reader.account_behind(owner)
        pb = self.context.reader.read_owner(behind, self._blocks)
        enriched = self.enriched(EspfEvent(RECONCILE, {}), event_id, behind, pb)
        return replace(enriched, t=SnapshotTime(f"{before}/{event_id}"))

    def enriched(self, event: EspfEvent, event_id: str, owner: Owner, pb: PbData) -> Enriched:
        """What a connector is given of a snapshot that was read at this moment."""
        now = _now()
        return Enriched(
            event_id=event_id,
            event=event,
            owner=owner,
            t=SnapshotTime(f"{now}/{event_id}"),
            pb=pb.trim(list(self._blocks)),
            created_at=now,
            updated_at=now,
        )

    # ---- what stands in the system -------------------------------------------------------------

    def foreign(self, after: str, limit: int) -> dict[str, Any]:
        """Of the next keys of the system those that NSPS did not write; ``last``: where to go on,
        None at the end. Raises NoState where the system cannot list, Transient."""
        connector, handler = self._connector, self.context.handler
        if not (isinstance(connector, StateConnector) and connector.listable):
            raise NoState(f"{handler.name}: its connector cannot list what the system holds")
        call = Call(Deadline(handler.call_timeout_seconds), reference=f"{handler.name}/keys")
        keys = list(connector.keys(after, limit, call))
        store = self.context.store
        places = {key: store.resource(handler.name, key).path for key in keys}
        documents = store.call(lambda: store.documents.get(places.values())) if places else []
        ours = {each.path for each in documents if (each.fields or {}).get("owner")}
        foreign = [key for key, place in places.items() if place not in ours]
        return {"foreign": foreign, "last": keys[-1] if len(keys) == limit else None}

    # ---- one owner's resources ---------------------------------------------------------------

    def resources(self, enriched: Enriched) -> list[Compared]:
        """How the system differs from what the owner should have there. Raises Transient."""
        connector, store, name = self._connector, self.context.store, self.context.handler.name
        assert isinstance(connector, StateConnector | AsynchronousConnector)
        owner = str(enriched.owner)
        try:
            states = connector.desired(enriched)
        except Terminal as error:
            reason = self.context.redactor().text_for_store(str(error))
            return [Compared("", Comparison.REJECTED, reason=reason)]
        owned = {str(each["key"]): each for each in store.find(store.resources_of(name, owner))}
        known = {key: owned.get(key) or self._ledger(key) for key in states}
        left = [self._left_over(key, owned[key]) for key in sorted(owned) if key not in states]
        return left + [
            self.resource(key, state, owner, known[key], self._read)
            for key, state in states.items()
        ]

    def _ledger(self, key: str) -> dict[str, Any]:
        store = self.context.store
        return store.read(store.resource(self.context.handler.name, key)) or {}

    def _left_over(self, key: str, data: Mapping[str, Any]) -> Compared:
        waiting = _waiting(Resource.read(data))
        if waiting:
            return Compared(key, Comparison.WAITING, reason=waiting)
        if not self._readable:
            return Compared(key, Comparison.LEFT_OVER)
        was = self._read(key)
        held = "" if was is not None else "only the ledger has it"
        return Compared(key, Comparison.LEFT_OVER, "system", reason=held)

    def resource(
        self,
        key: str,
        state: State,
        owner: str,
        data: Mapping[str, Any],
        read: Callable[[str], State | None],
    ) -> Compared:
        """How a resource differs from the state that it should have. ``data``: the ledger's
        document; ``read``: what the system holds for a key."""
        resource = Resource.read(data)
        waiting = _waiting(resource)
        if waiting:
            return Compared(key, Comparison.WAITING, reason=waiting)
        wanted = self.context.redactor().digest(plain(state))
        sure = resource.confirmed == wanted and not resource.dirty and resource.owner == owner
        if self._readable:
            return self._against_system(key, state, read(key), sure=sure)
        return self._against_ledger(key, state, data, sure)

    def _against_system(self, key: str, state: State, was: State | None, *, sure: bool) -> Compared:
        redactor = self.context.redactor()
        if was is None:
            return Compared(key, Comparison.MISSING, "system", differences({}, state, redactor))
        differs = changed(was, state)
        if sure:  # what the system does not return (a key) is as it was last written
            differs &= set(was)
        if differs:
            fields = {name: state[name] for name in state if name in differs}
            return Compared(key, Comparison.DIFFERENT, "system", differences(was, fields, redactor))
        if not sure:
            return Compared(
                key, Comparison.UNRECORDED, reason="the ledger is not sure that it is so"
            )
        return Compared(key, Comparison.SAME, "system")

    def _against_ledger(
        self, key: str, state: State, data: Mapping[str, Any], sure: bool
    ) -> Compared:
        """The system cannot be asked: only what was confirmed last is known."""
        if sure:
            return Compared(key, Comparison.SAME)
        redactor, before = self.context.redactor(), from_json(data.get("state")) or {}
        if data.get("confirmed") is None:
            return Compared(key, Comparison.MISSING, fields=differences({}, state, redactor))
        now = shown(state, redactor)
        fields = {name: state[name] for name in state if before.get(name) != now.get(name)}
        why = "its last write is in doubt" if data.get("dirty") else ""
        return Compared(
            key, Comparison.DIFFERENT, fields=differences(before, fields, redactor), reason=why
        )

    @property
    def _readable(self) -> bool:
        return isinstance(self._connector, StateConnector) and self._connector.readable

    def _read(self, key: str) -> State | None:
        assert isinstance(self._connector, StateConnector)
        deadline = Deadline(self.context.handler.call_timeout_seconds)
        return self._connector.read(key, Call(deadline, reference=f"compare/{key}"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _waiting(resource: Resource) -> str:
    if resource.pending is not None:
        return "an order for it has not been answered yet"
    now = datetime.now(UTC)
    if resource.lease is not None and resource.lease_until and resource.lease_until > now:
        return "it is being written this moment"
    return ""


def _unread(found: Sequence[Compared]) -> bool:
    return len(found) == 1 and found[0].what is Comparison.UNREAD
