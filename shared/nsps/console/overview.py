"""How everything is at this moment, from what Firestore holds: a row for each handler, a row for
what all handlers share, and what needs a person."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud.firestore import FieldFilter, Query

from nsps.cloud.messages import ENRICHMENT
from nsps.cloud.queues import Queue
from nsps.cloud.store import Store
from nsps.console.handlers import Handlers
from nsps.console.problems import MENDED_LOOKED, Shared, problems
from nsps.delivery import switch
from nsps.delivery.switch import State, Switch, Switches, kept_until
from nsps.delivery.timeline import plain
from nsps.domain.event import parse_delivery_id
from nsps.domain.outcome import Outcome, Transient
from nsps.runtime.settings import PORTABILLING, HandlerSummary

AT_ONCE = 16
SAMPLE = 100
"""Deliveries from which the times are computed: the newest."""
REMEMBERED_SECONDS = 5.0
"""How old the figures may be: many who look at once ask Firestore once."""
QUEUES_SECONDS = 30.0
"""Cloud Monitoring measures each minute: it need not be asked more often."""
WINDOWS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
KINDS: Mapping[str, tuple[Outcome, ...]] = {
    "done": (Outcome.DELIVERED, Outcome.UNCHANGED),
    "superseded": (Outcome.SUPERSEDED,),
    "failed": (Outcome.REJECTED, Outcome.EXPIRED),
}
"""What the deliveries of a time are counted as."""
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Overview:
    """Reads; safe to share between threads."""

    store: Store
    handlers: Handlers
    switches: Switches
    failed_jobs: Callable[[], Sequence[Mapping[str, Any]]]
    """The newest jobs that have failed."""
    queues: Callable[[], Mapping[str, Queue]]
    """What waits in Pub/Sub, by handler and for enrichment."""
    clock: Callable[[], float] = time.monotonic
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(AT_ONCE, thread_name_prefix="overview")
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    _kept_queues: list[tuple[float, Mapping[str, Queue], str | None]] = field(default_factory=list)

    def read(self) -> dict[str, Any]:
        """{"at", "handlers", "portabilling", "espf", "dead_letters", "scheduler", "queues",
        "problems"}.

        Raises Transient.
        """
        with self._lock:
            if self._kept and self.clock() - self._kept[0][0] < REMEMBERED_SECONDS:
                return self._kept[0][1]
            found = self._read()
            self._kept[:] = [(self.clock(), found)]
            return found

    def _read(self) -> dict[str, Any]:
        switches, now = self.switches.read_all(self.handlers.by_name)
        names = sorted(self.handlers.by_name)
        asked = {name: self._ask_handler(name, switches[name], now) for name in names}
        shared = self._ask_shared()
        jobs, queues = self._pool.submit(self.failed_jobs), self._pool.submit(self._queues)
        rows = [self._row(name, switches[name], now, asked[name]) for name in names]
        waiting, queues_error = queues.result()
        for row in rows:
            row["queue"] = _queue(waiting.get(row["name"]))
        found = {name: each.result() for name, each in shared.items()}
        common = Shared(**found, queues=waiting, queues_error=queues_error)
        return {
            "at": plain(now),
            "handlers": rows,
            "portabilling": {
                "state": state_of(common.portabilling),
                "unread": common.unread,
                "since": plain(common.unread_since),
                "parked": common.unread_parked,
                "error": common.unread_error,
                "queue": _queue(common.queues.get(ENRICHMENT)),
            },
            "queues": {"error": common.queues_error},
            "espf": {"due": common.statuses_due, "refused": common.statuses_refused},
            "dead_letters": {"parked": common.unread_parked + sum(row["parked"] for row in rows)},
            "scheduler": {"last_tick": plain(common.last_tick)},
            "problems": [each.to_json() for each in problems(rows, common, jobs.result(), now)],
        }

    def _queues(self) -> tuple[Mapping[str, Queue], str | None]:
        """What waits in Pub/Sub, or why that is not known: the page is shown all the same."""
        now = self.clock()
        if self._kept_queues and now - self._kept_queues[0][0] < QUEUES_SECONDS:
            return self._kept_queues[0][1:]
        found: Mapping[str, Queue] = {}
        error = None
        try:
            found = self.queues()
        except Transient as failure:
            error = str(failure)
        self._kept_queues[:] = [(now, found, error)]
        return found, error

    # ---- one handler -------------------------------------------------------------------------

    def _ask_handler(self, name: str, state: Switch, now: datetime) -> dict[str, Any]:
        deliveries = self.store.client.collection("handlers", name, "deliveries")
        open_still = deliveries.where(filter=FieldFilter("outcome", "==", None))
        asked: dict[str, Any] = {
            "open": self._pool.submit(self._count, open_still),
            "oldest": self._pool.submit(
                self._first, open_still.order_by("begun_at"), ("begun_at",)
            ),
            "newest": self._pool.submit(
                self._first, _newest(open_still, "begun_at"), ("retry", "last_at")
            ),
            "unanswered": self._pool.submit(
                self._count, deliveries.where(filter=_outcomes((Outcome.ACCEPTED,)))
            ),
            "parked": self._pool.submit(self._count, self._parked(name)),
            "failure": self._pool.submit(
                self._first,
                _newest(deliveries.where(filter=_outcomes(KINDS["failed"])), "finished_at"),
                ("errors", "retry", "finished_at"),
            ),
            "sample": self._pool.submit(self._sample, deliveries),
            "to mend": self._pool.submit(self._to_mend, name, deliveries, now),
        }
        for window, span in WINDOWS.items():
            for kind, outcomes in KINDS.items():
                since = FieldFilter("finished_at", ">=", now - span)
                query = deliveries.where(filter=_outcomes(outcomes)).where(filter=since)
                asked[f"{window} {kind}"] = self._pool.submit(self._count, query)
        if state.off_since is not None:
            events = self.store.events().where(
                filter=FieldFilter("handlers", "array_contains", name)
            )
            since = FieldFilter("opened_at", ">=", state.off_since)
            begun = FieldFilter("begun_at", ">=", state.off_since)
            arrived = events.where(filter=since)
            asked["arrived"] = self._pool.submit(self._count, arrived)
            asked["begun"] = self._pool.submit(self._count, deliveries.where(filter=begun))
            asked["arrived first"] = self._pool.submit(
                self._first, arrived.order_by("opened_at"), ("opened_at",)
            )
        return asked

    def _row(
        self, name: str, state: Switch, now: datetime, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        handler: HandlerSummary = self.handlers.by_name[name]
        found = {key: each.result() for key, each in asked.items()}
        held = max(0, found.get("arrived", 0) - found.get("begun", 0))
        moments = [(found["oldest"] or {}).get("begun_at")]
        if held:
            moments.append((found["arrived first"] or {}).get("opened_at"))
        return {
            "name": name,
            "connector": handler.connector,
            "kind": handler.kind,
            "group": handler.group,
            "state": state_of(state),
            "why": state.why(),
            "reason": state.breaker.reason if state.breaker.state is State.OPEN else None,
            "since": plain(state.off_since),
            "kept_until": plain(kept_until(state)),
            "warning": switch.warning(name, state, now),
            "waiting": found["open"] + held,
            "oldest": plain(min(filter(None, moments), default=None)),
            "unanswered": found["unanswered"],
            "parked": found["parked"],
            **{window: {kind: found[f"{window} {kind}"] for kind in KINDS} for window in WINDOWS},
            "took": took(found["sample"]),
            "last_error": last_error(found["newest"], found["failure"]),
            "to_mend": len(found["to mend"]),
            "to_mend_error": next((_error_of(each) for each in found["to mend"]), None),
        }

    def _to_mend(self, name: str, deliveries: Any, now: datetime) -> list[dict[str, Any]]:
        """Deliveries of the last day that failed for good, the newest first, and that neither a
        replay nor a newer event of the owner has taken over; of the newest MENDED_LOOKED."""
        since = FieldFilter("finished_at", ">=", now - WINDOWS["day"])
        failed = deliveries.where(filter=_outcomes(KINDS["failed"])).where(filter=since)
        query = _newest(failed, "finished_at").select(["t", "errors", "retry"]).limit(MENDED_LOOKED)
        snapshots = self.store.call(lambda: list(query.stream()))
        failures: dict[str, tuple[int, dict[str, Any]]] = {}
        for each in snapshots:
            event_id, run = parse_delivery_id(each.id)
            failures.setdefault(event_id, (run, each.to_dict() or {}))  # its newest run
        if not failures:
            return []
        events = self._all(map(self.store.event, failures), ["runs", "owner"])
        place = {
            ident: self.store.owner(name, str(data.get("owner"))) for ident, data in events.items()
        }
        owners = self._all(set(place.values()), ["watermark", "by", "meanings"])
        return [
            data
            for event_id, (run, data) in failures.items()
            if event_id in events
            and not _replayed(events[event_id], name, run)
            and not _overtaken(owners.get(place[event_id].id, {}), event_id, str(data.get("t", "")))
        ]

    def _all(self, references: Iterable[Any], fields: list[str]) -> dict[str, dict[str, Any]]:
        wanted = list(references)
        found = self.store.call(lambda: list(self.store.client.get_all(wanted, fields)))
        return {each.id: each.to_dict() or {} for each in found if each.exists}

    def _sample(self, deliveries: Any) -> list[float]:
        """Milliseconds from receipt to the end, of the newest deliveries."""
        query = _newest(deliveries, "finished_at").select(["t", "finished_at"]).limit(SAMPLE)
        return [ms for each in self.store.find(query) if (ms := _milliseconds(each)) is not None]

    # ---- what all share ----------------------------------------------------------------------

    def _ask_shared(self) -> dict[str, Any]:
        events = self.store.events()
        unread = events.where(filter=FieldFilter("state", "==", "received"))
        refused = self.store.client.collection("statuses").where(
            filter=FieldFilter("refused", ">", "")
        )
        submit = self._pool.submit
        return {
            "unread": submit(self._count, unread),
            "unread_since": submit(self._unread_since, unread),
            "unread_error": submit(self._unread_error, unread),
            "unread_parked": submit(self._count, self._parked(ENRICHMENT)),
            "statuses_due": submit(self._count, self.store.statuses_due()),
            "statuses_refused": submit(self._count, refused),
            "portabilling": submit(lambda: self.switches.read(PORTABILLING)),
            "last_tick": submit(lambda: (self.store.read(self.store.tick()) or {}).get("at")),
        }

    def _unread_since(self, unread: Any) -> datetime | None:
        oldest = self._first(unread.order_by("opened_at"), ("opened_at",)) or {}
        return oldest.get("opened_at")

    def _unread_error(self, unread: Any) -> str | None:
        newest = self._first(_newest(unread, "opened_at"), ("retry",)) or {}
        return (newest.get("retry") or {}).get("error")

    def _parked(self, stage: str) -> Any:
        parked = self.store.client.collection("parked")
        waits = parked.where(filter=FieldFilter("stage", "==", stage))
        return waits.where(filter=FieldFilter("next_try", ">", _LONG_AGO))

    def _count(self, query: Any) -> int:
        return int(self.store.call(lambda: query.count().get())[0][0].value)

    def _first(self, query: Any, fields: Iterable[str]) -> dict[str, Any] | None:
        found = self.store.find(query.select(list(fields)).limit(1))
        return found[0] if found else None


def _queue(queue: Queue | None) -> dict[str, Any] | None:
    return plain(asdict(queue)) if queue else None


def _newest(query: Any, name: str) -> Any:
    return query.order_by(name, direction=Query.DESCENDING)


def _outcomes(outcomes: Sequence[Outcome]) -> FieldFilter:
    if len(outcomes) == 1:
        return FieldFilter("outcome", "==", outcomes[0].value)
    return FieldFilter("outcome", "in", [each.value for each in outcomes])


def _replayed(event: Mapping[str, Any], handler: str, run: int) -> bool:
    """Whether the event was sent again after this run."""
    return bool((event.get("runs") or {}).get(handler, {}).get("n", 0) > run)


def _overtaken(owner: Mapping[str, Any], event_id: str, t: str) -> bool:
    """Whether a newer event of the owner has been begun in the place of this one."""
    marks = [owner, *(owner.get("meanings") or {}).values()]
    if any(mark.get("by") == event_id for mark in marks):
        return False
    return any(str(mark.get("watermark", "")) > t for mark in marks)


# ---- what the figures say: pure ----------------------------------------------------------------


def state_of(state: Switch) -> str:
    """A handler's switch in a word or two."""
    if state.pause is not None:
        return "paused"
    return {
        State.CLOSED: "in service",
        State.OPEN: "down",
        State.HALF_OPEN: "coming back",
    }[state.breaker.state]


def took(sample: Sequence[float]) -> dict[str, Any] | None:
    """Median and 99th percentile in milliseconds; None without a sample."""
    if not sample:
        return None
    ordered = sorted(sample)
    rank = {"median": 0.5, "p99": 0.99}
    values = {
        name: round(ordered[max(0, math.ceil(part * len(ordered)) - 1)])
        for name, part in rank.items()
    }
    return {**values, "of": len(ordered)}


def _milliseconds(delivery: Mapping[str, Any]) -> float | None:
    received, _, _ = str(delivery.get("t", "")).partition("/")
    finished = delivery.get("finished_at")
    try:
        passed: timedelta = finished - datetime.fromisoformat(received)  # type: ignore[operator]
        return passed.total_seconds() * 1000
    except (ValueError, TypeError):
        return None


def last_error(
    newest: Mapping[str, Any] | None, failure: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The newer of what an unfinished delivery and a failed one complain of."""
    found: list[tuple[datetime, str]] = []
    retry = (newest or {}).get("retry")
    if retry:
        found.append((retry["at"], str(retry["error"])))
    if failure and failure.get("finished_at"):
        found.append((failure["finished_at"], _error_of(failure)))
    if not found:
        return None
    at, text = max(found)
    return {"at": plain(at), "text": text}


def _error_of(failure: Mapping[str, Any]) -> str:
    """What a delivery that failed for good complains of."""
    errors = [*(failure.get("errors") or []), (failure.get("retry") or {}).get("error")]
    return str(next(filter(None, errors), "failed"))
