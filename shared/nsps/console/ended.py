"""Events by what they ended as (rejected, expired, ...), found by Firestore's indexes.

However long ago: nothing else is looked through. The newest end comes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from google.cloud.firestore import FieldFilter, Query

from nsps.cloud import cursor
from nsps.cloud.store import Store
from nsps.delivery.timeline import SEARCHED, EventHistory, Page, Timeline, Wanted, plain
from nsps.domain.outcome import Outcome

AT_ONCE = 50
_NEVER_READ = frozenset({Outcome.REJECTED.value, Outcome.EXPIRED.value})
"""What an event itself can end as, without any delivery."""

Candidate = tuple[datetime, str]
"""When something ended, and its event."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Searches the deliveries of some handlers; safe to share between threads."""

    store: Store
    timeline: Timeline

    @staticmethod
    def finds(wanted: Wanted) -> bool:
        """Whether it finds what is asked for. What has not ended has no time of its end, and the
        events of one account are few."""
        if wanted.account is not None or not wanted.outcomes:
            return False
        return all(Outcome(each).final for each in wanted.outcomes)

    def page(self, wanted: Wanted, handlers: Iterable[str], limit: int, after: str = "") -> Page:
        """The events whose newest delivery for one of the handlers ended so; Timeline.page's like.

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
        outcomes = sorted(wanted.outcomes or ())
        streams = []
        for name in handlers:
            deliveries = self.store.client.collection("handlers", name, "deliveries")
            ended = deliveries.where(filter=FieldFilter("outcome", "in", outcomes))
            streams.append(self._stream(ended, "finished_at", wanted.since, start))
        never_read = sorted(_NEVER_READ.intersection(outcomes))
        if never_read:
            events = self.store.events().where(filter=FieldFilter("state", "in", never_read))
            streams.append(self._stream(events, "opened_at", wanted.since, start))
        merged = heapq.merge(*streams, reverse=True)
        return (each for each in merged if start is None or each < start)

    def _stream(
        self, query: Any, field: str, since: datetime | None, start: Candidate | None
    ) -> Iterator[Candidate]:
        """One query's (moment, event_id), the newest first, read as far as they are taken."""
        if since is not None:
            query = query.where(filter=FieldFilter(field, ">=", since))
        query = query.order_by(field, direction=Query.DESCENDING)
        at = query.start_at({field: start[0]}) if start is not None else query
        while True:
            snapshots = self._read(at.limit(AT_ONCE))
            for each in snapshots:
                yield each.get(field), each.id.partition(".")[0]
            if len(snapshots) < AT_ONCE:
                return
            at = query.start_after(snapshots[-1])

    def _read(self, query: Any) -> list[Any]:
        return self.store.call(lambda: list(query.stream()))


def _start(after: str) -> Candidate | None:
    position = cursor.read("moment", after)
    return (position["moment"], position["__name__"]) if position else None


def _is_listed_here(history: EventHistory, moment: datetime, wanted: Wanted) -> bool:
    """Whether the event is wanted, and this is the newest of its ends that are asked for: each
    event is listed once."""
    if not wanted.holds(history) or not _in_time(history, wanted):
        return False
    return bool(plain(moment) == max(_ends(history, wanted), default=None))


def _ends(history: EventHistory, wanted: Wanted) -> Iterator[str]:
    newest = {each.handler: each for each in history.deliveries}
    for name, each in newest.items():
        if each.outcome in (wanted.outcomes or ()) and wanted.handler in (None, name):
            ended = each.finished_at
            if history.state in _NEVER_READ and not each.run:
                ended = history.opened_at
            yield from (ended,) if ended else ()


def _in_time(history: EventHistory, wanted: Wanted) -> bool:
    opened = datetime.fromisoformat(history.opened_at) if history.opened_at else None
    if opened is None:
        return False
    after = wanted.since is None or opened >= wanted.since
    return after and (wanted.until is None or opened <= wanted.until)
