"""What happened to an event, read back from the history.

The console explains it in words (``nsps.console.explanation``), for its pages and the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from google.cloud.firestore import DocumentReference, DocumentSnapshot, FieldFilter, Query

from nsps.cloud import cursor
from nsps.cloud.store import Store, from_json
from nsps.domain.event import delivery_id
from nsps.domain.outcome import Outcome
from nsps.domain.retry import PUSH
from nsps.domain.routing import matches
from nsps.runtime.settings import HandlerSummary


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of the event for one handler. Times are ISO 8601, UTC."""

    handler: str
    delivery: str
    outcome: str | None
    attempts: int
    begun_at: str | None
    last_at: str | None
    finished_at: str | None
    results: tuple[Mapping[str, Any], ...]
    errors: tuple[str, ...]
    retry: Mapping[str, Any] | None
    next_try: str | None
    summary: str | None
    superseded_by: str | None
    read_again: int
    """How often PortaBilling was read anew for it, for another event had gone first."""
    orders: tuple[str, ...]
    espf: Mapping[str, Any] | None
    run: int = 0
    """0 for the event as it came; 1, 2, ... for its replays."""
    waits_for: str | None = None
    failures: tuple[Mapping[str, Any], ...] = ()
    """The newest failures, oldest first, also after a success: ``error``, ``first_at``, ``at``,
    ``times``."""
    sent_at: str | None = None
    """When it was published for the handler; of a replay: asked for, not later than this."""

    @property
    def final(self) -> bool:
        return self.outcome is not None and Outcome(self.outcome).final


@dataclass(frozen=True, slots=True)
class EventHistory:
    """An event's history entry with its deliveries."""

    event_id: str
    event_type: str
    i_event: str | None
    i_account: int | None
    owner: str
    state: str
    received_at: str | None
    opened_at: str | None
    enriched_at: str | None
    read_ms: float | None
    snapshot_t: str | None
    trace_id: str
    retry: Mapping[str, Any] | None
    next_try: str | None
    deliveries: tuple[Delivered, ...]
    damaged: tuple[str, ...] = ()
    """Calls of PortaBilling in whose answers a text could not be read."""
    snapshot: bytes | None = field(default=None, repr=False)
    """pb_data as the history keeps it, compressed; not part of the JSON."""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the event by itself."""
        return not self.unread and all(each.final for each in self.deliveries)

    @property
    def unread(self) -> bool:
        """Whether PortaBilling has still to be read for the event itself; its replays may be done
        already."""
        return self.state in ("received", _PARKED)

    @property
    def read_by(self) -> str | None:
        """When PortaBilling had been read at the latest. ``enriched_at`` is written after the event
        was published: a handler may have begun before that."""
        begun = [each.begun_at for each in self.deliveries if each.begun_at and not each.run]
        return min((self.enriched_at, *begun)) if self.enriched_at else None


def as_json(history: EventHistory) -> dict[str, Any]:
    """A history as JSON: its members, and ``final``."""
    document = asdict(history) | {"final": history.final}
    del document["snapshot"]
    for each, delivered in zip(document["deliveries"], history.deliveries, strict=True):
        each["final"] = delivered.final
    return document


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for; what is None leaves it open. ``event_type``: a pattern."""

    account: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    event_type: str | None = None
    handler: str | None = None
    outcomes: frozenset[str] | None = None

    @property
    def everything(self) -> bool:
        """Whether Firestore's query alone finds them."""
        return self.event_type is None and self.handler is None and self.outcomes is None

    def is_of_type(self, event_type: str) -> bool:
        """Whether events of this type are wanted."""
        return self.event_type is None or matches(self.event_type, event_type)

    def holds(self, history: EventHistory) -> bool:
        """Whether it is wanted, beyond what the query says."""
        if not self.is_of_type(history.event_type):
            return False
        if self.outcomes is not None:
            return came_to(history, self.handler, self.outcomes)
        return self.handler is None or any(d.handler == self.handler for d in history.deliveries)


@dataclass(frozen=True, slots=True)
class Page:
    """``next``: the cursor of the page after it, None at the end."""

    histories: tuple[EventHistory, ...]
    next: str | None
    looked_through: int


class Timeline:
    """Reads histories. ``handlers``: by name, as they are configured now."""

    def __init__(self, store: Store, handlers: Mapping[str, HandlerSummary]) -> None:
        self._store, self._handlers = store, handlers

    def find(self, name: str) -> list[EventHistory]:
        """The event of an event_id, or the events of an i_event. Raises StoreUnavailable."""
        data = self._store.read(self._store.event(name)) if "/" not in name else None
        if data is not None and not expired(data, datetime.now(UTC)):
            return [self._event_history(name, data)]
        return self.where("i_event", name)

    def named(self, idents: Iterable[str]) -> dict[str, EventHistory]:
        """The events of these event_ids that are there, by id. Raises StoreUnavailable."""
        references = [self._store.event(ident) for ident in idents]
        found = self._store.call(lambda: list(self._store.client.get_all(references)))
        return {each.event_id: each for each in self._loaded(each for each in found if each.exists)}

    def where(self, field: str, value: Any, limit: int = 100) -> list[EventHistory]:
        """The newest events in whose entry a field (i_event, i_account, owner) has a value, oldest
        first."""
        query = self._store.events().where(filter=FieldFilter(field, "==", value))
        newest = query.order_by("opened_at", direction=Query.DESCENDING).limit(limit)
        return self._histories(newest)[::-1]

    def latest(self, limit: int) -> list[EventHistory]:
        """The newest events, newest first."""
        query = self._store.events().order_by("opened_at", direction=Query.DESCENDING)
        return self._histories(query.limit(limit))

    def page(self, wanted: Wanted, limit: int, after: str = "") -> Page:
        """The newest events that are wanted, newest first; ``after``: where the page before ended.

        Looks through SEARCHED events at the most: then the page ends early, and ``next`` goes on.
        """
        query = self._wanted(wanted)
        position: Any = cursor.read("opened_at", after)
        found: list[EventHistory] = []
        looked = 0
        while looked < SEARCHED:
            at = query.start_after(position) if position is not None else query
            size = limit if wanted.everything else _SEARCH_PAGE
            snapshots = self._snapshots(at.limit(size))
            looked += len(snapshots)
            for history in self._loaded(snapshots, wanted.is_of_type):
                if wanted.holds(history):
                    found.append(history)
                if len(found) == limit:
                    return Page(tuple(found), _cursor(snapshots, history.event_id), looked)
            if len(snapshots) < size:
                return Page(tuple(found), None, looked)
            position = snapshots[-1]
        return Page(tuple(found), _cursor(snapshots, snapshots[-1].id), looked)

    def _wanted(self, wanted: Wanted) -> Query:
        query: Any = self._store.events()
        if wanted.account is not None:
            query = query.where(filter=FieldFilter("i_account", "==", wanted.account))
        elif wanted.handler is not None:
            mine = FieldFilter("handlers", "array_contains", wanted.handler)
            query = query.where(filter=mine)
        if wanted.since is not None:
            query = query.where(filter=FieldFilter("opened_at", ">=", wanted.since))
        if wanted.until is not None:
            query = query.where(filter=FieldFilter("opened_at", "<=", wanted.until))
        for name in ("opened_at", "__name__"):
            query = query.order_by(name, direction=Query.DESCENDING)
        return cast(Query, query)

    def around(self, history: EventHistory, limit: int) -> list[EventHistory]:
        """The event between those of the same owner that came next before and after it, newest
        first."""
        # Its history says the time to the millisecond only, which events of a burst share.
        at = (self._store.read(self._store.event(history.event_id)) or {}).get("opened_at")
        if at is None:
            return [history]
        mine = self._store.events().where(filter=FieldFilter("owner", "==", history.owner))
        before = mine.where(filter=FieldFilter("opened_at", "<", at))
        after = mine.where(filter=FieldFilter("opened_at", ">", at))
        earlier = before.order_by("opened_at", direction=Query.DESCENDING).limit(limit)
        later = self._histories(after.order_by("opened_at").limit(limit))
        return [*later[::-1], history, *self._histories(earlier)]

    def _histories(self, query: Query) -> list[EventHistory]:
        return self._loaded(self._snapshots(query))

    def _snapshots(self, query: Query) -> list[DocumentSnapshot[Any]]:
        return self._store.call(lambda: list(query.stream()))

    def _loaded(
        self,
        found: Iterable[DocumentSnapshot[Any]],
        of_type: Callable[[str], bool] = lambda event_type: True,
    ) -> list[EventHistory]:
        """``of_type``: the deliveries of other events are not read."""
        entries = [(snapshot.id, snapshot.to_dict() or {}) for snapshot in found]
        now = datetime.now(UTC)
        kept = [
            (ident, data)
            for ident, data in entries
            if not expired(data, now) and of_type(data.get("event_type", ""))
        ]
        documents = self._deliveries(kept)
        return [self._event_history(ident, data, documents) for ident, data in kept]

    def _deliveries(
        self, entries: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> dict[str, dict[str, Any] | None]:
        """The delivery and status documents of many events, in one read."""
        store = self._store
        references = {}
        for ident, data in entries:
            for handler, run in runs_of(data):
                delivery = store.delivery(handler, delivery_id(ident, run))
                references[delivery.path] = delivery
                group = self._group(handler)
                if group and data.get("i_account") is not None:
                    status = store.status(data["i_account"], group)
                    references[status.path] = status
        if not references:
            return {}
        snapshots = store.call(lambda: list(store.client.get_all(list(references.values()))))
        return {s.reference.path: s.to_dict() if s.exists else None for s in snapshots}

    def _event_history(
        self,
        ident: str,
        data: Mapping[str, Any],
        documents: Mapping[str, dict[str, Any] | None] | None = None,
    ) -> EventHistory:
        if documents is None:
            documents = self._deliveries([(ident, data)])
        return EventHistory(
            event_id=ident,
            event_type=data.get("event_type", ""),
            i_event=data.get("i_event"),
            i_account=data.get("i_account"),
            owner=data.get("owner", ""),
            state=data.get("state", ""),
            received_at=data.get("received_at"),
            opened_at=_iso(data.get("opened_at")),
            enriched_at=_iso(data.get("enriched_at")),
            read_ms=data.get("read_ms"),
            snapshot_t=data.get("t"),
            trace_id=data.get("trace_id", ""),
            retry=plain(data.get("retry")),
            next_try=_iso(data.get("next_try")) if data.get("state") == _PARKED else None,
            deliveries=tuple(
                self._delivered(handler, run, ident, data, documents)
                for handler, run in runs_of(data)
            ),
            damaged=tuple(data.get("damaged") or ()),
            snapshot=data.get("snapshot"),
        )

    def _delivered(
        self,
        handler: str,
        run: int,
        ident: str,
        event: Mapping[str, Any],
        documents: Mapping[str, dict[str, Any] | None],
    ) -> Delivered:
        delivery = delivery_id(ident, run)
        data = documents.get(self._store.delivery(handler, delivery).path)
        data = data or ({} if run else never_read(event))
        return Delivered(
            handler=handler,
            delivery=delivery,
            outcome=data.get("outcome") or (Outcome.RETRYING.value if data.get("retry") else None),
            attempts=data.get("attempts", 0),
            begun_at=_iso(data.get("begun_at")),
            last_at=_iso(data.get("last_at")),
            finished_at=_iso(data.get("finished_at")),
            results=tuple(_result(result) for result in data.get("results", [])),
            errors=tuple(data.get("errors", [])),
            retry=plain(data.get("retry")),
            failures=tuple(plain(failure) for failure in data.get("failures", [])),
            next_try=self._next_try(handler, data),
            summary=data.get("summary"),
            superseded_by=data.get("superseded_by"),
            read_again=data.get("read_again", 0),
            orders=tuple(data.get("orders", [])),
            espf=self._espf(handler, event, data, documents),
            run=run,
            waits_for=data.get("waits_for"),
            sent_at=_iso(_sent_at(handler, run, event)),
        )

    def _espf(
        self,
        handler: str,
        event: Mapping[str, Any],
        data: Mapping[str, Any],
        documents: Mapping[str, dict[str, Any] | None],
    ) -> dict[str, Any] | None:
        """The status of the account for the handler's group, and whether it was sent."""
        group, i_account = self._group(handler), event.get("i_account")
        if group is None or i_account is None:
            return None
        status = documents.get(self._store.status(i_account, group).path)
        if status is None:
            return {"group": group, "status": None, "sent": False, "of_this": False}
        return {
            "group": group,
            "status": status.get("status"),
            "sent": status.get("posted") == status.get("revision"),
            "sent_at": _iso(status.get("posted_at")),
            "refused": status.get("refused"),
            "of_this": status.get("t") == data.get("t"),
        }

    def _group(self, handler: str) -> str | None:
        known = self._handlers.get(handler)
        return known.group if known else None

    def _next_try(self, handler: str, data: Mapping[str, Any]) -> str | None:
        """When a delivery is tried again by itself: as planned, or about then by Pub/Sub."""
        if data.get("outcome") not in (None, _PARKED):
            return None  # decided, or with its system; what was planned is void
        return _iso(data.get("next_try")) or self._next_attempt(handler, data)

    def _next_attempt(self, handler: str, data: Mapping[str, Any]) -> str | None:
        """About when Pub/Sub brings a failed delivery again, from the handler's own schedule; not
        before the system asked to be called again."""
        retry = data.get("retry")
        if not retry or data.get("outcome"):
            return None
        known = self._handlers.get(handler)
        push = known.retries.schedule.push if known else PUSH
        gap = push.gap_after(max(1, data.get("attempts", 1)))
        at: datetime = retry["at"] + timedelta(seconds=gap)
        return _iso(max(at, retry.get("not_before") or at))


SEARCHED = 2000
"""Events that one page looks through at the most."""
_SEARCH_PAGE = 200


def _cursor(snapshots: Iterable[DocumentSnapshot[Any]], ident: str) -> str:
    (last,) = (each for each in snapshots if each.id == ident)
    opened_at: datetime = (last.to_dict() or {})["opened_at"]
    return cursor.write(opened_at, ident)


def came_to(history: EventHistory, handler: str | None, outcomes: frozenset[str]) -> bool:
    """Whether the newest delivery of a handler (of any, if none is named) came to one of these.

    What has not ended and did not fail is ``waiting``.
    """
    newest = {each.handler: each.outcome or Outcome.WAITING.value for each in history.deliveries}
    if handler is not None:
        return newest.get(handler) in outcomes
    return any(outcome in outcomes for outcome in newest.values())


def never_read(event: Mapping[str, Any]) -> dict[str, Any]:
    """What each handler's delivery of an event comes to that PortaBilling could not be read for.

    Empty while it is neither parked nor ended. What is replayed has a delivery of its own.
    """
    state = event.get("state")
    if state not in (_PARKED, Outcome.EXPIRED.value, Outcome.REJECTED.value):
        return {}
    return {
        "outcome": state,
        "next_try": event.get("next_try"),
        "last_at": (event.get("retry") or {}).get("at"),
        "finished_at": event.get("finished_at"),
        "errors": event.get("errors", []),
    }


RUNS_SHOWN = 5
"""Of many replays of one event the newest are shown."""


def runs_of(event: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(handler, run) of every delivery of an event, in the order in which they were begun."""
    replayed = event.get("runs") or {}
    first = [(name, 0) for name in event.get("handlers", []) if not _only(replayed.get(name))]
    later = [
        (name, run)
        for name, last in replayed.items()
        for run in range(max(1, last["n"] - RUNS_SHOWN + 1), last["n"] + 1)
    ]
    return first + sorted(later, key=lambda each: each[1])


def _only(replayed: Mapping[str, Any] | None) -> bool:
    """Whether the handler has had the event by replays alone."""
    return bool(replayed and replayed.get("only"))


def _sent_at(handler: str, run: int, event: Mapping[str, Any]) -> datetime | None:
    return event["runs"][handler].get("at") if run else event.get("enriched_at")


_PARKED = Outcome.PARKED.value


def about_parked(store: Store, parked: Mapping[str, Any]) -> tuple[DocumentReference, str]:
    """The document that tells how something parked is, and in which field.

    A replay that could not be read is its handler's delivery: the event belongs to all handlers.
    """
    replayed_for = parked["only"] if parked["run"] is not None else None
    handler = parked["handler"] or replayed_for
    if handler is None:
        return store.event(parked["event_id"]), "state"
    return store.delivery(handler, parked["delivery"]), "outcome"


def last_reason(about: Mapping[str, Any], otherwise: str) -> str:
    """Why the last attempt failed, by the event's entry or the delivery."""
    return str((about.get("retry") or {}).get("error") or otherwise)


ENDED = frozenset({"enriched", "unhandled", Outcome.EXPIRED.value, Outcome.REJECTED.value})
"""States of an event's entry in which nothing more is done for the event itself."""


def settled(field: str, data: Mapping[str, Any]) -> bool:
    """Whether what was parked needs no further try: ``data`` is the ``state`` of its event's entry,
    or the ``outcome`` of its delivery. What was ordered is waited for elsewhere."""
    if field == "state":
        return data.get("state") in ENDED
    outcome = data.get("outcome")
    return outcome is not None and (Outcome(outcome).final or outcome == Outcome.ACCEPTED.value)


def expired(data: Mapping[str, Any], now: datetime) -> bool:
    """Firestore's TTL may take a day; what has expired is not shown."""
    expire_at = data.get("expire_at")
    return expire_at is not None and expire_at <= now


def _iso(moment: Any) -> str | None:
    if not isinstance(moment, datetime):
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _result(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What was done to a resource, and in which fields."""
    result: dict[str, Any] = plain(kept)
    return result | {"fields": changes(result["fields"])} if "fields" in result else result


def changes(kept: Any) -> dict[str, Any]:
    """{field: {from, to}} of what was kept. A pair of an older release is a list."""
    return {
        name: {"from": each[0], "to": each[1]} if isinstance(each, list) else each
        for name, each in (from_json(kept) or {}).items()
    }


def plain(value: Any) -> Any:
    """A stored value as JSON has it."""
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
