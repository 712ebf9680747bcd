"""Long work of operators: a document in Firestore, worked off in slices by whoever is there.

A slice is a message of the topic ``jobs`` with its number. Whoever takes it holds the job's lease,
does page after page, writes down after each where it is and what it found, and after some seconds
publishes the next slice. Cut off anywhere, the slice's message comes again and goes on from what
was written down; a page that is done twice finds or sends the same once more, under the same ids.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

from google.cloud.firestore import FieldFilter, Query

from nsps.cloud import audit, cursor
from nsps.cloud.messages import Publisher
from nsps.cloud.store import HISTORY_DAYS, Store, Tx, as_json
from nsps.console.identity import Person
from nsps.console.job_documents import (
    findings_of,
    is_name,
    job_place,
    kinds,
    read_resources,
    seen_place,
    seen_positions,
    with_bits,
)
from nsps.domain.outcome import Terminal, Transient
from nsps.runtime import log

_log = log.get(__name__)

RECONCILE = "reconcile"

SLICE_SECONDS = 15.0
LEASE_SECONDS = 120.0
PAGE = 100
LOOKED_AT = 250
"""What a job that sends nothing looks at in one page."""
DEFAULT_RATE = 20.0
MAX_RATE = 1000.0
KEPT_FINDINGS = 2000
"""Findings that a job keeps to be read; all of them are counted."""


class JobState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"


class UnknownJob(LookupError):
    """There is no such job."""


class JobConflict(Exception):
    """The job cannot do that now; the message says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its worker sees it. ``cursor``: where it is; {} at the beginning."""

    id: str
    kind: str
    spec: Mapping[str, Any]
    by: str
    created_at: datetime
    dry_run: bool
    fix: bool
    rate: float
    state: JobState
    cursor: Mapping[str, Any]
    slice: int
    total: int | None

    @property
    def sends(self) -> bool:
        """Whether it sends events, and has to keep to its rate."""
        return self.fix or (self.kind != RECONCILE and not self.dry_run)

    @classmethod
    def read(cls, ident: str, data: Mapping[str, Any]) -> Job:
        return cls(
            id=ident,
            kind=data["kind"],
            spec=data["spec"],
            by=data["by"],
            created_at=data["created_at"],
            dry_run=data["dry_run"],
            fix=data["fix"],
            rate=data["rate"],
            state=JobState(data["state"]),
            cursor=data["cursor"],
            slice=data["slice"],
            total=data["total"],
        )


@dataclass(frozen=True, slots=True)
class Page:
    """What one page did. ``cursor``: where to go on; None: nothing is left.

    ``done``: what was looked at; ``found``: counts by word; ``findings``: name -> what to show;
    ``sent``: events that were published; ``seen``: accounts that there are; ``singly``: why
    accounts were read one by one, and how many.
    """

    cursor: Mapping[str, Any] | None
    done: int = 0
    found: Mapping[str, int] = field(default_factory=dict)
    findings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sent: int = 0
    total: int | None = None
    seen: Iterable[int] = ()
    singly: Mapping[str, int] = field(default_factory=dict)


class Worker(Protocol):
    """What a kind of job does."""

    def page(self, job: Job, size: int) -> Page:
        """The next page. Raises Transient (try again later) or Terminal (the job has failed)."""
        ...


class Jobs:
    """All jobs; safe to share between threads and instances."""

    def __init__(
        self,
        store: Store,
        publisher: Callable[[], Publisher],
        topic: str,
        workers: Callable[[], Mapping[str, Worker]],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._publisher, self._topic = store, publisher, topic
        self._workers, self._clock, self._sleep = workers, clock, sleep

    # ---- what people do ----------------------------------------------------------------------

    def start(
        self,
        kind: str,
        spec: Mapping[str, Any],
        person: Person,
        *,
        dry_run: bool = False,
        fix: bool = False,
        rate: float = DEFAULT_RATE,
        reason: str = "",
    ) -> str:
        """Begin a job; returns its id. Raises Transient."""
        ident = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"

        def body(tx: Tx) -> None:
            tx.read([job_place(self._store, ident)])
            tx.merge(
                job_place(self._store, ident),
                {
                    "kind": kind,
                    "spec": dict(spec),
                    "by": person.email,
                    "role": person.role.name,
                    "reason": reason,
                    "dry_run": dry_run,
                    "fix": fix,
                    "rate": rate,
                    "state": JobState.RUNNING.value,
                    "cursor": {},
                    "slice": 1,
                    "published": 0,
                    "done": 0,
                    "sent": 0,
                    "total": None,
                    "run_at": tx.now,
                    "run_done": 0,
                    "found": {},
                    "kept": 0,
                    "error": None,
                    "created_at": tx.now,
                    "updated_at": tx.now,
                    "ended_at": None,
                    "eta": None,
                    "stop": None,
                    "lease": None,
                    "lease_until": None,
                    "expire_at": tx.after(days=HISTORY_DAYS),
                },
            )
            details = {"spec": dict(spec), "dry_run": dry_run, "fix": fix, "rate": rate}
            audit.note(
                self._store, tx, person.email, person.role.name, kind, ident, reason, details
            )

        self._store.transact(body)
        self._publish(ident, 1)
        return ident

    def stop(self, ident: str, person: Person, reason: str = "") -> None:
        """Stop a job after the page it is at. Raises UnknownJob, JobConflict, Transient."""

        def body(tx: Tx) -> None:
            data = self._existing(tx, ident)
            if data["state"] != JobState.RUNNING:
                raise JobConflict(f"job {ident} is not running: it is {data['state']}")
            ended = {"state": JobState.STOPPED.value, "ended_at": tx.now, "eta": None}
            stop = {"by": person.email, "at": tx.now, "reason": reason}
            tx.merge(job_place(self._store, ident), {"stop": stop, "updated_at": tx.now, **ended})
            audit.note(self._store, tx, person.email, person.role.name, "stop", ident, reason)

        self._store.transact(body)

    def resume(self, ident: str, person: Person, reason: str = "") -> None:
        """Go on with a stopped or failed job where it was. Raises UnknownJob, JobConflict."""

        def body(tx: Tx) -> int:
            data = self._existing(tx, ident)
            if data["state"] not in (JobState.STOPPED, JobState.FAILED):
                raise JobConflict(f"job {ident} cannot be resumed: it is {data['state']}")
            fields = {"state": JobState.RUNNING.value, "stop": None, "error": None}
            run = {"run_at": tx.now, "run_done": data["done"]}
            number = int(data["slice"]) + 1
            tx.merge(
                job_place(self._store, ident),
                {**fields, **run, "ended_at": None, "slice": number, "updated_at": tx.now},
            )
            audit.note(self._store, tx, person.email, person.role.name, "resume job", ident, reason)
            return number

        self._publish(ident, self._store.transact(body))

    # ---- what is shown -----------------------------------------------------------------------

    def get(self, ident: str) -> dict[str, Any]:
        """A job's document with ``id``. Raises UnknownJob, Transient."""
        data = self._store.read(job_place(self._store, ident)) if is_name(ident) else None
        if data is None or data["expire_at"] <= datetime.now(UTC):
            raise UnknownJob(f"there is no job {ident}: `nsps jobs` lists them")
        return _shown(ident, data)

    def latest(self, limit: int, after: str = "") -> tuple[list[dict[str, Any]], str | None]:
        """The newest jobs first, and the cursor of the page after it (None at the end).

        Raises ValueError for a cursor that is none, Transient.
        """
        query: Any = self._store.client.collection("jobs")
        for name in ("created_at", "__name__"):
            query = query.order_by(name, direction=Query.DESCENDING)
        position = cursor.read("created_at", after)
        if position is not None:
            query = query.start_after(position)
        found = self._store.call(lambda: list(query.limit(limit).stream()))
        now = datetime.now(UTC)
        documents = [(each.id, each.to_dict() or {}) for each in found]
        following = None
        if len(documents) == limit:
            ident, last = documents[-1]
            following = cursor.write(last["created_at"], ident)
        shown = [_shown(ident, data) for ident, data in documents if data["expire_at"] > now]
        return shown, following

    def failed(self) -> list[dict[str, Any]]:
        """Of the newest jobs those that have failed."""
        newest, _ = self.latest(20)
        return [job for job in newest if job["state"] == JobState.FAILED]

    def findings(
        self, ident: str, limit: int, after: str = "", what: str = ""
    ) -> tuple[list[dict[str, Any]], str | None]:
        """What a job found, by name, and the ``after`` of the next page (None at the end).

        ``what``: only findings of this kind (missing, different, ...).
        """
        query: Any = findings_of(self._store, ident)
        if what:
            query = query.where(filter=FieldFilter("kinds", "array_contains", what))
        query = query.order_by("name")
        if after:
            query = query.start_after({"name": after})
        found = self._store.find(query.limit(limit))
        following = str(found[-1]["name"]) if len(found) == limit else None
        shown = [{**each, "resources": read_resources(each.get("resources"))} for each in found]
        return shown, following

    # ---- work --------------------------------------------------------------------------------

    def work(self, ident: str, number: int) -> None:
        """Do one slice. Returns when its message is done with. Raises Transient."""
        token = uuid.uuid4().hex
        job = self._store.transact(lambda tx: self._take(tx, ident, number, token))
        if job is None:
            self._hand_over_again(ident)
            return
        with log.fields(job=ident):
            self._slice(job, token)

    def _slice(self, job: Job, token: str) -> None:
        ends = self._clock() + SLICE_SECONDS
        current: Job | None = job
        while current is not None:
            began = self._clock()
            page = self._page(current, token)
            if page is None:
                return
            commit = partial(self._commit, job=current, token=token, page=page)
            current = self._store.transact(commit)
            if page.sent and current is not None:
                self._sleep(max(0.0, page.sent / job.rate - (self._clock() - began)))
            if current is not None and self._clock() >= ends:
                self._hand_over(current, token)
                return

    def _page(self, job: Job, token: str) -> Page | None:
        try:
            paced = max(1, min(PAGE, int(job.rate * 5)))
            return self._workers()[job.kind].page(job, paced if job.sends else LOOKED_AT)
        except Terminal as error:
            failed = {"state": JobState.FAILED.value, "error": str(error)}
            self._end(job.id, token, failed)
            return None
        except Transient as error:
            self._end(job.id, token, {"error": str(error)})
            raise
        except Exception as error:
            said = f"it failed in an unforeseen way ({type(error).__name__}); see the log"
            self._end(job.id, token, {"error": said})
            raise

    def _take(self, tx: Tx, ident: str, number: int, token: str) -> Job | None:
        """The job, with its lease; None if this slice is over. Raises Transient if it is held."""
        reference = job_place(self._store, ident)
        data = tx.read([reference])[reference.path]
        if data is None or data["state"] != JobState.RUNNING or number < data["slice"]:
            return None
        if data["lease"] and data["lease_until"] > tx.now:
            left = (data["lease_until"] - tx.now).total_seconds()
            raise Transient(f"job {ident} is being worked on", retry_after=left)
        tx.merge(reference, {"lease": token, "lease_until": tx.after(seconds=LEASE_SECONDS)})
        return Job.read(ident, data)

    def _commit(self, tx: Tx, job: Job, token: str, page: Page) -> Job | None:
        """Write a page down; the job as it goes on, or None if it is over, stopped or not ours."""
        reference = job_place(self._store, job.id)
        positions = seen_positions(page.seen)
        places = {number: seen_place(self._store, job.id, number) for number in positions}
        found = tx.read([reference, *places.values()])
        data = found[reference.path]
        if data is None or data["lease"] != token:
            return None
        for number, place in places.items():
            before = (found[place.path] or {}).get("bits", b"")
            tx.merge(
                place,
                {"bits": with_bits(before, positions[number]), "expire_at": data["expire_at"]},
            )
        kept = self._keep(tx, job, page, data)
        total = page.total if page.total is not None else data["total"]
        fields: dict[str, Any] = {
            "done": data["done"] + page.done,
            "sent": data["sent"] + page.sent,
            "total": total,
            "found": _added(data["found"], page.found),
            "kept": kept,
            "singly": _added(data.get("singly", {}), page.singly),
            "error": None,
            "updated_at": tx.now,
            "lease_until": tx.after(seconds=LEASE_SECONDS),
        }
        over = page.cursor is None
        if over and data["state"] == JobState.RUNNING:
            fields |= {"state": JobState.DONE.value, "ended_at": tx.now, "eta": None}
        elif not over:
            fields |= {"cursor": dict(page.cursor or {})}
            fields["eta"] = _eta(data | fields, tx.now)
        if over or data["state"] != JobState.RUNNING:
            fields |= {"lease": None, "lease_until": None}
        tx.merge(reference, fields)
        if over or data["state"] != JobState.RUNNING:
            return None
        return Job.read(job.id, {**data, **fields})

    def _keep(self, tx: Tx, job: Job, page: Page, data: Mapping[str, Any]) -> int:
        kept = int(data["kept"])
        for name, finding in page.findings.items():
            if kept >= KEPT_FINDINGS:
                break
            place = findings_of(self._store, job.id).document(quote(name, safe=":"))
            resources = finding.get("resources", [])
            kept_as = {**finding, "resources": as_json(resources), "kinds": kinds(resources)}
            tx.merge(place, {"name": name, **kept_as, "expire_at": data["expire_at"]})
            kept += 1
        return kept

    def _end(self, ident: str, token: str, fields: Mapping[str, Any]) -> None:
        """Give the lease back with what went wrong."""

        def body(tx: Tx) -> None:
            reference = job_place(self._store, ident)
            data = tx.read([reference])[reference.path] or {}
            if data.get("lease") != token:
                return
            free = {"lease": None, "lease_until": None, "updated_at": tx.now}
            if fields.get("state"):
                free |= {"ended_at": tx.now, "eta": None}
            tx.merge(reference, {**fields, **free})

        try:
            self._store.transact(body)
        except Transient as error:
            _log.warning("a job's lease runs out by itself", reason=str(error))

    def _hand_over(self, job: Job, token: str) -> None:
        """The next slice is due: written down first, then published."""

        def body(tx: Tx) -> bool:
            reference = job_place(self._store, job.id)
            data = tx.read([reference])[reference.path] or {}
            if data.get("lease") != token:
                return False
            tx.merge(reference, {"slice": job.slice + 1, "lease": None, "lease_until": None})
            return True

        if self._store.transact(body):
            self._publish(job.id, job.slice + 1)

    def _hand_over_again(self, ident: str) -> None:
        """An old slice came again: the next one's message may have been cut off before it left."""
        data = self._store.read(job_place(self._store, ident))
        if data and data["state"] == JobState.RUNNING and data["published"] < data["slice"]:
            self._publish(ident, data["slice"])

    def _publish(self, ident: str, number: int) -> None:
        attributes = {"job": ident, "slice": str(number)}
        self._publisher().publish(self._topic, b"{}", attributes)
        reference = job_place(self._store, ident)
        self._store.call(lambda: reference.set({"published": number}, merge=True))

    def _existing(self, tx: Tx, ident: str) -> dict[str, Any]:
        reference = job_place(self._store, ident)
        data = tx.read([reference])[reference.path] if is_name(ident) else None
        if data is None:
            raise UnknownJob(f"there is no job {ident}: `nsps jobs` lists them")
        return data


def _added(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {word: before.get(word, 0) + more.get(word, 0) for word in {*before, *more}}


def _eta(job: Mapping[str, Any], now: datetime) -> datetime | None:
    """When it ends at the pace since it was begun or resumed, and no faster than its rate."""
    total, done = job["total"], job["done"]
    here = done - job.get("run_done", 0)
    if not total or here <= 0 or done > total:
        return None
    took = (now - job.get("run_at", job["created_at"])).total_seconds()
    each = max(took / here, job["sent"] / done / job["rate"])
    return now + timedelta(seconds=(total - done) * each)


_INTERNAL = ("cursor", "slice", "published", "lease", "lease_until", "kept", "run_at", "run_done")


def _shown(ident: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": ident, "singly": {}} | {
        name: each for name, each in data.items() if name not in _INTERNAL
    }
