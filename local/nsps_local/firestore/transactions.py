"""Transactions: serializable by checking at commit, kept from starving by queueing where it is hot.

A transaction reads one moment, its `snapshot`. A later read moves the snapshot ahead if all that
was read before is still as it was; if not, the transaction is doomed, and goes on seeing the old
moment. Commit moves it ahead a last time; where that fails it is ABORTED, and the client runs it
again. So what a committed transaction read was true at its commit time: no write skew, no phantoms.

That alone would let many writers of one document abort each other again and again (the client gives
up after five tries). So what caused an abort is hot for some seconds: transactions that read it
wait in line, each until the one before has ended. The line is only a courtesy: correctness never
depends on it, so who holds its place longer than HOLD_SECONDS loses it, and blocks nobody.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc

from nsps_local.firestore import plan
from nsps_local.firestore.clock import MICRO, micros
from nsps_local.firestore.names import Key, invalid
from nsps_local.firestore.query import Query
from nsps_local.firestore.store import Store
from nsps_local.grpc_server import Refused

HOT_SECONDS = 5.0
HOLD_SECONDS = 0.5
MAX_AGE_SECONDS = 270.0
IDLE_SECONDS = 60.0
PAST = 3600 * MICRO
"""How far back production reads."""
Fingerprint = tuple[tuple[Key, int], ...]


class Read(NamedTuple):
    """A query that was run in a transaction, and what it found: each document and its version."""

    query: Query
    found: Fingerprint


class Transaction:
    """What a transaction has read, as of `snapshot` (None before the first read)."""

    def __init__(self, name: bytes, db: int, snapshot: int | None, *, read_only: bool) -> None:
        self.name = name
        self.db = db
        self.read_only = read_only
        self.snapshot = snapshot
        self.keys: set[Key] = set()
        self.queries: list[Read] = []
        self.begun = self.used = time.monotonic()
        self.places: set[Hashable] = set()
        self.waits: Line | None = None


class Line:
    """Those who wait for one hot thing; the first holds it."""

    def __init__(self) -> None:
        self.holder: Transaction | None = None
        self.since = 0.0
        self.hot_until = 0.0
        self.waiting: deque[asyncio.Event] = deque()


class Queue:
    """The lines before hot documents and queries."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines: dict[Hashable, Line] = {}
        self._clock = clock

    def heat(self, causes: Iterable[Hashable]) -> None:
        """These caused an abort."""
        for cause in causes:
            line = self._lines.setdefault(cause, Line())
            line.hot_until = self._clock() + HOT_SECONDS
        if len(self._lines) > 1000:
            self._cool()

    def _cool(self) -> None:
        now = self._clock()
        for cause, line in list(self._lines.items()):
            if line.holder is None and not line.waiting and line.hot_until < now:
                del self._lines[cause]

    def is_hot(self, cause: Hashable) -> bool:
        line = self._lines.get(cause)
        return line is not None and line.hot_until > self._clock()

    def hot(self, causes: Iterable[Hashable]) -> list[Hashable]:
        """Which of these have a line; nearly always none."""
        return [cause for cause in causes if self.is_hot(cause)] if self._lines else []

    async def enter(self, transaction: Transaction, cause: Hashable) -> None:
        """Wait until the transaction is the first in line.

        Where those it would wait for wait for itself, it goes on without: one of them will be
        aborted at commit.
        """
        line = self._lines.setdefault(cause, Line())
        line.hot_until = self._clock() + HOT_SECONDS
        if line.holder is transaction or _circular(transaction, line):
            return
        if line.holder is not None or line.waiting:
            await self._stand(transaction, line)
        line.holder, line.since = transaction, self._clock()
        transaction.places.add(cause)

    async def _stand(self, transaction: Transaction, line: Line) -> None:
        turn = asyncio.Event()
        line.waiting.append(turn)
        transaction.waits = line
        try:
            while not turn.is_set():
                await self._wait(line, turn)
        finally:
            transaction.waits = None
            line.waiting.remove(turn)

    async def _wait(self, line: Line, turn: asyncio.Event) -> None:
        """Until it may be our turn: we are told, or the holder has held too long."""
        left = line.since + HOLD_SECONDS - self._clock()
        try:
            async with asyncio.timeout(max(0.001, left)):
                await turn.wait()
        except TimeoutError:
            expired = self._clock() >= line.since + HOLD_SECONDS
            if expired and line.waiting and line.waiting[0] is turn:
                turn.set()

    def leave(self, transaction: Transaction) -> None:
        """Give up all places: the next ones move on."""
        for cause in transaction.places:
            line = self._lines.get(cause)
            if line is not None and line.holder is transaction:
                line.holder = None
                if line.waiting:
                    line.since = self._clock()
                    line.waiting[0].set()
        transaction.places.clear()


def _circular(transaction: Transaction, line: Line) -> bool:
    """Whether the line's holder waits, over any others, for this transaction."""
    seen = set()
    holder = line.holder
    while holder is not None and holder not in seen:
        if holder is transaction:
            return True
        seen.add(holder)
        holder = holder.waits.holder if holder.waits else None
    return False


class Transactions:
    """The transactions under way, in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[bytes, Transaction] = {}
        self._ended: deque[bytes] = deque(maxlen=10_000)
        self.queue = Queue()

    def begin(self, db: int, options: Any) -> Transaction:
        """A new transaction as TransactionOptions say. Raises Refused for a time not known."""
        self._expire()
        snapshot = None
        read_only = options.HasField("read_only")
        if read_only and options.read_only.HasField("read_time"):
            snapshot = self.past(options.read_only.read_time)
        elif read_only:
            snapshot = self._store.clock.now()
        transaction = Transaction(os.urandom(12), db, snapshot, read_only=read_only)
        self._open[transaction.name] = transaction
        return transaction

    def past(self, stamp: Any) -> int:
        """A read time asked for, in microseconds; refused where it is not known (any more)."""
        moment = micros(stamp)
        now = self._store.clock.now()
        if moment > now:
            raise invalid("The requested 'read_time' cannot be in the future.")
        if moment < max(self._store.history.floor, now - PAST):
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, "The requested 'read_time' is too old."
            )
        return moment

    def get(self, db: int, name: bytes) -> Transaction:
        """The transaction under way. Raises Refused where it has ended or never was."""
        found = self._open.get(name)
        if found is None or found.db != db:
            raise invalid("The referenced transaction has expired or is no longer valid.")
        now = time.monotonic()
        if now - found.begun > MAX_AGE_SECONDS or now - found.used > IDLE_SECONDS:
            self.end(found)
            raise invalid("The referenced transaction has expired or is no longer valid.")
        found.used = now
        return found

    def end(self, transaction: Transaction) -> None:
        """It is committed, aborted or rolled back."""
        if self._open.pop(transaction.name, None) is not None:
            self._ended.append(transaction.name)
        self.queue.leave(transaction)

    def rollback(self, db: int, name: bytes) -> None:
        """End a transaction; one that has ended already may be rolled back again."""
        if name not in self._ended:
            self.end(self.get(db, name))

    def _expire(self) -> None:
        oldest = time.monotonic() - MAX_AGE_SECONDS
        while self._open:
            transaction = next(iter(self._open.values()))
            if transaction.begun > oldest:
                return
            self.end(transaction)

    async def read_keys(self, transaction: Transaction, keys: Iterable[Key]) -> int:
        """The time at which these documents are to be read; waits where they are hot."""
        if transaction.read_only:
            return self.advance(transaction)
        keys = list(keys)
        await self._enter(transaction, keys)
        moment = self.advance(transaction)
        transaction.keys.update(keys)
        return moment

    async def read_query(
        self, transaction: Transaction, query: Query
    ) -> tuple[int, list[plan.Hit]]:
        """The time at which a query is run, and what it finds; waits where it is hot."""
        if transaction.read_only:
            moment = self.advance(transaction)
            return moment, self.run_at(query, moment)
        await self._enter(transaction, [query])
        moment = self.advance(transaction)
        hits = self.run_at(query, moment)
        if await self._enter(transaction, [hit.key for hit in hits]):
            moment = self.advance(transaction)
            hits = self.run_at(query, moment)
        transaction.queries.append(Read(query, _fingerprint(hits)))
        return moment, hits

    async def _enter(self, transaction: Transaction, causes: Sequence[Hashable]) -> bool:
        hot = self.queue.hot(causes)
        for cause in hot:
            await self.queue.enter(transaction, cause)
        return bool(hot)

    @asynccontextmanager
    async def turn(self, keys: Iterable[Key]) -> AsyncIterator[None]:
        """Where a write without a transaction stands in line too, if its documents are hot."""
        hot = self.queue.hot(keys)
        if not hot:
            yield
            return
        writer = Transaction(b"", 0, None, read_only=False)
        try:
            for key in hot:
                await self.queue.enter(writer, key)
            yield
        finally:
            self.queue.leave(writer)

    def run_at(self, query: Query, moment: int) -> list[plan.Hit]:
        if moment < self._store.history.floor:
            raise contention()
        return plan.run_at(self._store, query, moment)

    def advance(self, transaction: Transaction) -> int:
        """Move the snapshot to now where that changes nothing of what was read."""
        since = transaction.snapshot
        if since is None or not (transaction.read_only or self._changed(transaction, since)):
            transaction.snapshot = since = self._store.clock.now()
        return since

    def check(self, transaction: Transaction) -> None:
        """Refuse the commit where anything that was read is not so any more."""
        if transaction.snapshot is None:
            return
        causes = self._changed(transaction, transaction.snapshot)
        if causes:
            self.queue.heat(causes)
            raise contention()

    def _changed(self, transaction: Transaction, since: int) -> list[Hashable]:
        """What was read and is different now: keys of documents, queries."""
        history = self._store.history
        causes: list[Hashable] = [key for key in transaction.keys if history.changed(key, since)]
        for query, found in transaction.queries:
            if not history.group_changed(query.db, query.group, since):
                continue
            now = _fingerprint(plan.run(self._store, query))
            if now != found:
                causes.append(query)
                causes.extend({key for key, _ in set(now) ^ set(found)})
        return causes


def contention() -> Refused:
    return Refused(
        grpc.StatusCode.ABORTED,
        "Too much contention on these documents. Please try again.",
    )


def _fingerprint(hits: list[plan.Hit]) -> Fingerprint:
    return tuple((hit.key, hit.record.updated) for hit in hits)
