"""A job's slices: one worker at a time, nothing forgotten, nothing twice, whatever is cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.cloud.messages import Publisher
from nsps.cloud.store import Store
from nsps.console import job_documents
from nsps.console import jobs as jobs_module
from nsps.console.identity import Person, Role
from nsps.console.job_documents import seen_among
from nsps.console.jobs import Job, JobConflict, Jobs, Page, UnknownJob, Worker
from nsps.domain.outcome import Terminal, Transient

OPS = Person("ops@acme.example", Role.operator)


@dataclass
class Topic:
    """Keeps what is published; ``fails``: how often it refuses first."""

    messages: list[tuple[str, int]] = field(default_factory=list)
    fails: int = 0

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        if self.fails:
            self.fails -= 1
            raise Transient("Pub/Sub did not confirm")
        self.messages.append((attributes["job"], int(attributes["slice"])))
        return "1"


@dataclass
class Counting:
    """A worker of numbers up to ``last``; ``before`` is called at each page."""

    last: int
    step: int = 2
    pages: list[int] = field(default_factory=list)
    before: Callable[[int], None] = lambda at: None

    def page(self, job: Job, size: int) -> Page:
        at = int(job.cursor.get("at", 0))
        self.before(at)
        self.pages.append(at)
        end = min(at + self.step, self.last)
        cursor = {"at": end} if end < self.last else None
        kinds = ("missing", "same")
        names: dict[str, Mapping[str, Any]] = {
            str(n): {"resources": [{"what": kinds[n % 2], "key": "k"}]} for n in range(at, end)
        }
        return Page(cursor, end - at, {"odd": (end - at) // 2}, names, 1, self.last, range(at, end))


class Bench:
    """Jobs with one counting worker on a store. ``slow``: a slice is one page."""

    def __init__(self, store: Store, worker: Counting, *, slow: bool = False) -> None:
        self.store, self.topic, self.worker = store, Topic(), worker
        self.now = 0.0
        self.slept: list[float] = []

        def clock() -> float:
            self.now += jobs_module.SLICE_SECONDS if slow else 0.001
            return self.now

        self.jobs = Jobs(
            store,
            lambda: cast(Publisher, self.topic),
            "projects/p/topics/jobs",
            lambda: {"count": cast(Worker, worker)},
            clock,
            self.slept.append,
        )

    def start(self, **more: Any) -> str:
        return self.jobs.start("count", {}, OPS, **more)

    def run(self) -> None:
        """Deliver messages until there are none."""
        while self.topic.messages:
            self.jobs.work(*self.topic.messages.pop(0))

    def free(self, ident: str) -> None:
        """The lease of a dead worker is over."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        self.store.client.document("jobs", ident).set({"lease_until": past}, merge=True)


def test_a_job_goes_page_by_page_to_its_end(store: Store) -> None:
    bench = Bench(store, Counting(5))
    ident = bench.start(reason="a test")
    bench.run()
    job = bench.jobs.get(ident)
    assert (job["state"], job["done"], job["total"], job["sent"]) == ("done", 5, 5, 3)
    assert job["found"] == {"odd": 2}
    assert bench.worker.pages == [0, 2, 4]
    assert [each["name"] for each in bench.jobs.findings(ident, 10)[0]] == list("01234")
    assert seen_among(store, ident, range(10)) == set(range(5))
    (entry,) = store.find(store.client.collection("audit").limit(9))
    assert (entry["who"], entry["action"], entry["reason"]) == (OPS.email, "count", "a test")


def test_slices_follow_each_other_and_none_is_done_twice(store: Store) -> None:
    bench = Bench(store, Counting(6), slow=True)
    ident = bench.start()
    bench.topic.messages *= 3  # Pub/Sub delivers at least once
    bench.run()
    assert bench.jobs.get(ident)["state"] == "done"
    assert bench.worker.pages == sorted(set(bench.worker.pages)) == [0, 2, 4]


def test_two_instances_do_not_work_on_one_job(store: Store) -> None:
    refused: list[Transient] = []

    def meanwhile(at: int) -> None:
        try:
            other.jobs.work(ident, 1)
        except Transient as error:
            refused.append(error)

    worker = Counting(4, before=meanwhile)
    bench, other = Bench(store, worker), Bench(store, Counting(4))
    ident = bench.start()
    bench.run()
    assert len(refused) == 2
    assert refused[0].retry_after
    assert other.worker.pages == []


def test_a_killed_worker_is_followed_where_it_was(store: Store) -> None:
    class Killed(BaseException):
        pass

    def kill(at: int) -> None:
        if at == 4 and bench.worker.pages.count(2) == 1 and not dead:
            dead.append(at)
            raise Killed

    dead: list[int] = []
    bench = Bench(store, Counting(8, before=kill))
    ident = bench.start()
    message = bench.topic.messages[0]
    with pytest.raises(Killed):
        bench.run()
    with pytest.raises(Transient):
        bench.jobs.work(*message)  # its lease is still there
    bench.free(ident)
    bench.jobs.work(*message)
    assert bench.jobs.get(ident)["state"] == "done"
    assert bench.worker.pages == [0, 2, 4, 6]
    assert bench.jobs.get(ident)["done"] == 8


def test_a_slice_whose_successor_was_not_published_publishes_it_again(store: Store) -> None:
    bench = Bench(store, Counting(4), slow=True)
    ident = bench.start()
    message = bench.topic.messages.pop()
    bench.topic.fails = 1
    with pytest.raises(Transient):
        bench.jobs.work(*message)
    assert bench.topic.messages == []
    bench.jobs.work(*message)  # Pub/Sub brings it again
    assert bench.topic.messages == [(ident, 2)]
    bench.jobs.work(*message)
    assert bench.topic.messages == [(ident, 2)]


def test_stopped_after_the_page_it_is_at_and_resumed_there(store: Store) -> None:
    def stop(at: int) -> None:
        if at == 2 and not stopped:
            stopped.append(at)
            bench.jobs.stop(ident, OPS, "enough")

    stopped: list[int] = []
    bench = Bench(store, Counting(8, before=stop))
    ident = bench.start()
    bench.run()
    job = bench.jobs.get(ident)
    assert (job["state"], job["done"], job["stop"]["by"]) == ("stopped", 4, OPS.email)
    with pytest.raises(JobConflict):
        bench.jobs.stop(ident, OPS)
    bench.jobs.resume(ident, OPS)
    bench.run()
    assert bench.jobs.get(ident)["state"] == "done"
    assert bench.worker.pages == [0, 2, 4, 6]
    with pytest.raises(JobConflict):
        bench.jobs.resume(ident, OPS)


def test_what_passes_is_waited_for_and_said(store: Store) -> None:
    def down(at: int) -> None:
        if errors:
            raise errors.pop()

    errors: list[Exception] = [Transient("PortaBilling is away")]
    bench = Bench(store, Counting(2, before=down))
    ident = bench.start()
    message = bench.topic.messages.pop()
    with pytest.raises(Transient):
        bench.jobs.work(*message)
    assert bench.jobs.get(ident)["error"] == "PortaBilling is away"
    bench.jobs.work(*message)  # at once: the lease was given back
    assert bench.jobs.get(ident)["error"] is None
    assert bench.jobs.get(ident)["state"] == "done"


def test_what_never_works_ends_the_job_with_the_reason(store: Store) -> None:
    def refuse(at: int) -> None:
        raise Terminal("no such event")

    bench = Bench(store, Counting(2, before=refuse))
    ident = bench.start()
    bench.run()
    job = bench.jobs.get(ident)
    assert (job["state"], job["error"]) == ("failed", "no such event")
    assert job["ended_at"]


def test_no_more_is_sent_than_the_rate_allows(store: Store) -> None:
    bench = Bench(store, Counting(4))
    bench.start(rate=0.5)
    bench.run()
    assert bench.slept == [pytest.approx(2.0, abs=0.1)]  # one event a page, the last one is over


def test_the_end_is_estimated_from_this_run_and_its_rate() -> None:
    now = datetime(2026, 11, 21, 10, tzinfo=UTC)
    job: dict[str, Any] = {
        "created_at": now - timedelta(days=1),
        "run_at": now - timedelta(seconds=10),
        "run_done": 100,
        "done": 200,
        "sent": 0,
        "rate": 20.0,
        "total": 1200,
    }

    def left(**more: Any) -> float | None:
        eta = jobs_module._eta(job | more, now)
        return (eta - now).total_seconds() if eta else None

    assert left() == pytest.approx(100), "stopped for a day meanwhile: that is no pace"
    assert left(sent=200) == pytest.approx(100)
    assert left(sent=200, rate=1.0) == pytest.approx(1000), "what is to be sent has its rate"
    assert left(sent=50, rate=1.0) == pytest.approx(250)
    assert left(total=None) is None and left(run_done=200) is None and left(done=1300) is None


def test_findings_are_kept_up_to_a_limit_and_all_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "KEPT_FINDINGS", 3)
    bench = Bench(store, Counting(8))
    ident = bench.start()
    bench.run()
    assert len(bench.jobs.findings(ident, 10)[0]) == 3
    assert bench.jobs.get(ident)["found"] == {"odd": 4}


def test_jobs_and_findings_are_read_page_by_page(store: Store) -> None:
    bench = Bench(store, Counting(5))
    idents = [bench.start() for _ in range(3)]
    bench.run()
    newest, after = bench.jobs.latest(2)
    older, end = bench.jobs.latest(2, after or "")
    assert [each["id"] for each in (*newest, *older)] == idents[::-1] and end is None
    first, then = bench.jobs.findings(idents[0], 3)
    rest, end = bench.jobs.findings(idents[0], 3, then or "")
    assert [each["name"] for each in (*first, *rest)] == list("01234") and end is None
    missing, end = bench.jobs.findings(idents[0], 2, what="missing")
    assert [each["name"] for each in missing] == ["0", "2"] and end == "2"
    (last,), end = bench.jobs.findings(idents[0], 9, end or "", "missing")
    assert (last["name"], end) == ("4", None)
    assert bench.jobs.findings(idents[0], 9, what="left over") == ([], None)


def test_expired_jobs_never_show(store: Store) -> None:
    bench = Bench(store, Counting(2))
    ident = bench.start()
    past = datetime.now(UTC) - timedelta(days=1)
    store.client.document("jobs", ident).set({"expire_at": past}, merge=True)
    assert bench.jobs.latest(10) == ([], None)
    for name in (ident, "never", "a/b", ""):
        with pytest.raises(UnknownJob):
            bench.jobs.get(name)


@given(st.sets(st.integers(0, 400_000), max_size=60), st.sets(st.integers(0, 400_000), max_size=60))
def test_seen_accounts_are_a_bit_each(one: set[int], two: set[int]) -> None:
    bits: dict[int, bytes] = {}
    for accounts in (one, two):
        for number, positions in job_documents.seen_positions(accounts).items():
            bits[number] = job_documents.with_bits(bits.get(number, b""), positions)
    size = job_documents.SEEN_BITS

    def has(account: int) -> bool:
        return job_documents._has(bits.get(account // size, b""), account % size)

    assert {account for account in one | two | {7, 80_000} if has(account)} == one | two
    assert all(len(each) == size // 8 for each in bits.values())
