"""Events by what their deliveries came to (rejected, retrying, ...), found by Firestore's indexes.

However long ago: nothing else is looked through. The newest comes first: by its end what has
ended, by its first attempt what is open, by its next try what is parked.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from google.cloud.firestore import FieldFilter, Query

from nsps.cloud import cursor
from nsps.cloud.messages import ENRICHMENT
from nsps.cloud.store import Store
from nsps.delivery.timeline import SEARCHED, Delivered, EventHistory, Page, Timeline, Wanted, plain
from nsps.domain.outcome import Outcome

AT_ONCE = 50
_NEVER_READ = frozenset({Outcome.REJECTED.value, Outcome.EXPIRED.value})
"""What an event itself can end as, without any delivery."""
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

Candidate = tuple[datetime, str]
"""The moment by which an event is listed, and its id."""


@dataclass(frozen=True, slots=True)
class ByOutcome:
    """Searches the deliveries of some handlers; safe to share between threads."""

    store: Store
    timeline: Timeline

    @staticmethod
    def finds(wanted: Wanted) -> bool:
        """Whether it finds what is asked for. Of what waits not everything has a delivery yet, and
        the events of one account are few."""
        if wanted.account is not None or not wanted.outcomes:
            return False
        return Outcome.WAITING.value not in wanted.outcomes

    def page(self, wanted: Wanted, handlers: Iterable[str], limit: int, after: str = "") -> Page:
        """The events whose newest delivery for one of the handlers came to it; Timeline.page's
        like.

        Raises ValueError for a cursor that is none, Transient.
        """
        candidates = self._candidates(wanted, handlers, _start(after))
        found: dict[str, EventHistory] = {}
        looked = 0
        while batch := list(islice(candidates, AT_ONCE)):
            histories = self.timeline.named({ident for _, ident in batch})
            for moment, ident in batch:
                looked += 1
                history = histories.get(ident)
                if history is not None and _is_listed_here(history, moment, wanted):
                    found[ident] = history
                if len(found) == limit or looked >= SEARCHED:
                    return Page(tuple(found.values()), cursor.write(moment, ident), looked)
        return Page(tuple(found.values()), None, looked)

    def _candidates(
        self, wanted: Wanted, handlers: Iterable[str], start: Candidate | None
    ) -> Iterator[Candidate]:
        outcomes = wanted.outcomes or frozenset()
        streams = []
        for field, place in self._places(outcomes, handlers):
            least = wanted.since or (_LONG_AGO if field == "next_try" else None)
            streams.append(self._stream(place, field, least, start))
        merged = heapq.merge(*streams, reverse=True)
        return (each for each in merged if start is None or each < start)

    def _places(
        self, outcomes: frozenset[str], handlers: Iterable[str]
    ) -> Iterator[tuple[str, Any]]:
        """Each query, and the field by which it is ordered."""
        ended = sorted(each for each in outcomes if Outcome(each).final)
        parked = Outcome.PARKED.value in outcomes
        for name in handlers:
            deliveries = self.store.client.collection("handlers", name, "deliveries")
            if ended:
                yield "finished_at", deliveries.where(filter=FieldFilter("outcome", "in", ended))
            for outcome, written in ((Outcome.ACCEPTED, "accepted"), (Outcome.RETRYING, None)):
                if outcome.value in outcomes:
                    is_open = FieldFilter("outcome", "==", written)
                    yield "begun_at", deliveries.where(filter=is_open)
            if parked:
                yield "next_try", self._parked(name)
        never_read = sorted(_NEVER_READ.intersection(outcomes))
        if never_read:
            unread = FieldFilter("state", "in", never_read)
            yield "opened_at", self.store.events().where(filter=unread)
        if parked:
            yield "next_try", self._parked(ENRICHMENT)

    def _parked(self, stage: str) -> Any:
        mine = FieldFilter("stage", "==", stage)
        return self.store.client.collection("parked").where(filter=mine)

    def _stream(
        self, query: Any, field: str, least: datetime | None, start: Candidate | None
    ) -> Iterator[Candidate]:
        """One query's (moment, event_id), the newest first, read as far as they are taken."""
        if least is not None:
            query = query.where(filter=FieldFilter(field, ">=", least))
        query = query.order_by(field, direction=Query.DESCENDING)
        at = query.start_at({field: start[0]}) if start is not None else query
        while True:
            snapshots = self._read(at.limit(AT_ONCE))
            for each in snapshots:
                yield each.get(field), _event_of(each)
            if len(snapshots) < AT_ONCE:
                return
            at = query.start_after(snapshots[-1])

    def _read(self, query: Any) -> list[Any]:
        return self.store.call(lambda: list(query.stream()))


def _event_of(found: Any) -> str:
    """The event of a delivery (EVENT.RUN), of a parked one (STAGE.EVENT.RUN), or the event."""
    parts = found.id.split(".")
    return str(parts[1] if found.reference.parent.id == "parked" else parts[0])


def _start(after: str) -> Candidate | None:
    position = cursor.read("moment", after)
    return (position["moment"], position["__name__"]) if position else None


def _is_listed_here(history: EventHistory, moment: datetime, wanted: Wanted) -> bool:
    """Whether the event is wanted, and this is the newest of its moments that are asked for: each
    event is listed once."""
    if not wanted.holds(history) or not _in_time(history, wanted):
        return False
    return bool(plain(moment) == max(_moments(history, wanted), default=None))


def _moments(history: EventHistory, wanted: Wanted) -> Iterator[str]:
    newest = {each.handler: each for each in history.deliveries}
    for name, each in newest.items():
        if each.outcome in (wanted.outcomes or ()) and wanted.handler in (None, name):
            at = _moment(history, each)
            yield from (at,) if at else ()


def _moment(history: EventHistory, each: Delivered) -> str | None:
    if each.outcome == Outcome.PARKED.value:
        return each.next_try
    if not each.final:
        return each.begun_at
    if history.state in _NEVER_READ and not each.run:
        return history.opened_at
    return each.finished_at


def _in_time(history: EventHistory, wanted: Wanted) -> bool:
    opened = datetime.fromisoformat(history.opened_at) if history.opened_at else None
    if opened is None:
        return False
    after = wanted.since is None or opened >= wanted.since
    return after and (wanted.until is None or opened <= wanted.until)
