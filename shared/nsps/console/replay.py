"""Replay: events of the history once more, as if they came now.

A replayed event is enriched anew, so it can only write what PortaBilling says today. It is a run
of its own (1, 2, ...) beside the event's first delivery; the same job never runs an event twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from google.cloud.firestore import FieldFilter

from nsps.cloud.store import Store, Tx
from nsps.console.handlers import Handlers
from nsps.console.jobs import Job, Page
from nsps.delivery.history import kept_event
from nsps.delivery.resend import Resend
from nsps.delivery.timeline import never_read
from nsps.domain.event import RECONCILE, EspfEvent, delivery_id
from nsps.domain.outcome import Outcome, Terminal, Transient
from nsps.domain.routing import matches, wants
from nsps.runtime import log
from nsps.runtime.settings import HandlerSummary

_log = log.get(__name__)

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event of the history and the handlers that it is to be replayed for."""

    id: str
    data: Mapping[str, Any]
    event: EspfEvent
    handlers: tuple[str, ...]


@dataclass(slots=True)
class _Tally:
    found: dict[str, int] = field(default_factory=dict)
    findings: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    sent: int = 0

    def count(self, word: str) -> None:
        self.found[word] = self.found.get(word, 0) + 1


class Replay:
    """Works replays off; safe to share between threads."""

    def __init__(self, store: Store, handlers: Handlers, resend: Resend) -> None:
        self._store, self._handlers, self._resend = store, handlers, resend
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="replay")

    def page(self, job: Job, size: int) -> Page:
        """The next events. Raises Transient, Terminal."""
        spec = job.spec
        total = self._total(job) if not job.cursor else job.total
        found, cursor = self._read(job, size)
        entries = [entry for each in found if (entry := self._wanted(spec, *each)) is not None]
        if spec.get("outcomes"):
            entries = self._with_outcome(entries, frozenset(spec["outcomes"]))
        tally = _Tally()
        tasks = [(entry, handler) for entry in entries for handler in entry.handlers]
        perform = partial(self._previewed if job.dry_run else self._replayed, job)
        for (entry, handler), result in zip(tasks, self._pool.map(perform, tasks), strict=True):
            _count(tally, entry, handler, result, dry_run=job.dry_run)
        return Page(cursor, len(found), tally.found, tally.findings, tally.sent, total)

    # ---- which events ------------------------------------------------------------------------

    def _read(
        self, job: Job, size: int
    ) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any] | None]:
        if job.spec.get("event"):
            return self._one(str(job.spec["event"])), None
        query = self._query(job).order_by("opened_at").order_by("__name__")
        if job.cursor:
            query = query.start_after(
                {"opened_at": job.cursor["opened_at"], "__name__": job.cursor["id"]}
            )
        snapshots = self._store.call(lambda: list(query.limit(size).stream()))
        found = [(each.id, each.to_dict() or {}) for each in snapshots]
        if len(found) < size:
            return found, None
        ident, last = found[-1]
        return found, {"opened_at": last["opened_at"], "id": ident}

    def _one(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        data = self._store.read(self._store.event(name)) if "/" not in name else None
        if data is not None:
            return [(name, data)]
        query = self._store.events().where(filter=FieldFilter("i_event", "==", name)).limit(20)
        found = self._store.call(lambda: list(query.stream()))
        if not found:
            raise Terminal(f"no event {name} in the history")
        return [(each.id, each.to_dict() or {}) for each in found]

    def _query(self, job: Job) -> Any:
        spec = job.spec
        query: Any = self._store.events()
        if spec.get("account") is not None:
            query = query.where(filter=FieldFilter("i_account", "==", spec["account"]))
        if spec.get("since"):
            since = datetime.fromisoformat(spec["since"])
            query = query.where(filter=FieldFilter("opened_at", ">=", since))
        until = datetime.fromisoformat(spec["until"]) if spec.get("until") else job.created_at
        return query.where(filter=FieldFilter("opened_at", "<=", min(until, job.created_at)))

    def _total(self, job: Job) -> int | None:
        """How many events will be looked at; not all of them need match."""
        if job.spec.get("event"):
            return None
        counted = self._store.call(lambda: self._query(job).count().get())
        return int(counted[0][0].value)

    def _wanted(self, spec: Mapping[str, Any], ident: str, data: dict[str, Any]) -> _Entry | None:
        event_type, pattern = data["event_type"], spec.get("event_type")
        if data.get("expire_at") and data["expire_at"] <= datetime.now(UTC):
            return None
        if pattern and not matches(pattern, event_type):
            return None
        if event_type == RECONCILE and not (pattern or spec.get("event")):
            return None  # a repair is of its moment; reconcile again instead
        names = self._for_handlers(spec.get("handler"), data)
        if not names:
            return None
        event = kept_event(data)
        if event is None:
            why = "failed before its variables were kept: reconcile its account instead"
            if spec.get("event"):
                raise Terminal(f"event {ident} cannot be replayed: it {why}")
            _log.warning(f"an event is not replayed: it {why}", event_id=ident)
            return None
        return _Entry(ident, data, event, names)

    def _for_handlers(self, name: str | None, data: Mapping[str, Any]) -> tuple[str, ...]:
        had = data.get("handlers", [])
        if name is None:
            return tuple(each for each in had if each in self._handlers.by_name)
        handler: HandlerSummary = self._handlers.get(name)
        wanted = name in had or wants(handler.events, data["event_type"])
        return (name,) if wanted else ()

    def _with_outcome(self, entries: Sequence[_Entry], outcomes: frozenset[str]) -> list[_Entry]:
        """Those whose newest delivery has one of the outcomes, for those handlers."""
        places = {
            (entry.id, handler): self._newest(entry, handler)
            for entry in entries
            for handler in entry.handlers
        }
        if not places:
            return []
        snapshots = self._store.call(
            lambda: list(self._store.client.get_all(list(places.values())))
        )
        by_path = {each.reference.path: each.to_dict() or {} for each in snapshots}
        chosen = []
        for entry in entries:
            names = tuple(
                handler
                for handler in entry.handlers
                if _came_to(entry, handler, by_path[places[entry.id, handler].path]) in outcomes
            )
            chosen += [replace(entry, handlers=names)] if names else []
        return chosen

    def _newest(self, entry: _Entry, handler: str) -> Any:
        run = _last_run(entry, handler)
        return self._store.delivery(handler, delivery_id(entry.id, run))

    # ---- what is done with each --------------------------------------------------------------

    def _previewed(self, job: Job, task: tuple[_Entry, str]) -> dict[str, Any]:
        entry, handler = task
        request = {"event": entry.event.body(), "event_id": entry.id}
        return self._handlers.ask(handler, "/preview", request)

    def _replayed(self, job: Job, task: tuple[_Entry, str]) -> dict[str, Any]:
        entry, handler = task
        run = self._store.transact(lambda tx: self._next_run(tx, job, entry, handler))
        kept = {"received_at": entry.data.get("received_at")}  # a replay is a trace of its own
        self._resend.send(entry.id, entry.event.json(), handler, kept, run=run)
        return {"owner": entry.data.get("owner", ""), "run": run}

    def _next_run(self, tx: Tx, job: Job, entry: _Entry, handler: str) -> int:
        """The number of this run; the same one if this job has been here before."""
        reference = self._store.event(entry.id)
        data = tx.read([reference])[reference.path]
        if data is None:
            raise Transient(f"event {entry.id} has just gone")
        runs = dict(data.get("runs") or {})
        last = runs.get(handler, {"n": 0, "job": ""})
        if last["job"] == job.id:
            return int(last["n"])
        new = handler not in data.get("handlers", [])
        number = int(last["n"]) + 1
        runs[handler] = {
            "n": number,
            "job": job.id,
            "by": job.by,
            "at": tx.now,
            "only": new or last.get("only", False),
        }
        fields: dict[str, Any] = {"runs": runs}
        if new:
            fields["handlers"] = [*data.get("handlers", []), handler]
        tx.merge(reference, fields)
        return number


def _count(
    tally: _Tally, entry: _Entry, handler: str, result: Mapping[str, Any], *, dry_run: bool
) -> None:
    finding = {
        "event_id": entry.id,
        "event_type": entry.data["event_type"],
        "i_event": entry.data.get("i_event"),
        "handler": handler,
        "owner": result.get("owner"),
    }
    if not dry_run:
        tally.sent += 1
        tally.count("sent")
        tally.findings[f"{entry.id}/{handler}"] = finding | {"run": result["run"]}
        return
    resources = result.get("resources", [])
    for each in resources:
        tally.count(each["what"])
    if result.get("message"):
        tally.count("message")
    shown = _changing(resources)
    tally.findings[f"{entry.id}/{handler}"] = finding | {
        "resources": shown,
        "message": result.get("message") or result.get("rejected"),
    }


def _changing(resources: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in resources if each["what"] != "same"]


def _last_run(entry: _Entry, handler: str) -> int:
    return int((entry.data.get("runs") or {}).get(handler, {}).get("n", 0))


def _came_to(entry: _Entry, handler: str, delivery: Mapping[str, Any]) -> str:
    """What the newest delivery came to."""
    replayed = _last_run(entry, handler) > 0
    return _outcome(delivery or ({} if replayed else never_read(entry.data)))


def _outcome(data: Mapping[str, Any]) -> str:
    """A delivery's outcome as people name it; ``retrying`` while there is none after a failure."""
    if data.get("outcome"):
        return str(data["outcome"])
    return Outcome.RETRYING.value if data.get("retry") else Outcome.WAITING.value
