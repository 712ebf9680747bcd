"""Notes what status ESPF is to get, and posts it: at once where it was noted, else by a tick."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from nsps.cloud.store import TOMBSTONE_DAYS, Known, Store, Tx
from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import NoAnswer, Outcome, Terminal, Transient
from nsps.espf import outbox

_log = logging.getLogger(__name__)

REFUSED_SECONDS = 3600.0
"""After ESPF refused a status (a group nobody registered), the next try."""

MOST_DUE = 200
"""How many statuses a tick posts."""
FAILURES = 3
"""After failures for so many accounts in a row an instance posts nothing for a while."""
QUIET_SECONDS = 15.0
LONGEST_QUIET_SECONDS = 600.0


class StatusApi(Protocol):
    """ESPF's status call; raises nsps.domain.outcome errors."""

    def post(self, i_account: int, group: str, status: str, message: str) -> None: ...


class _Outage:
    """Whether ESPF is left alone: failures in a row, of several accounts, say that it is down.

    When the time is over the next post asks how it is; if it fails, twice the time follows.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: set[int] = set()
        self._until, self._seconds = float("-inf"), QUIET_SECONDS

    @property
    def lasts(self) -> bool:
        with self._lock:
            return self._clock() < self._until

    def failed(self, i_account: int) -> None:
        with self._lock:
            self._accounts.add(i_account)
            if len(self._accounts) >= FAILURES:
                self._until = self._clock() + self._seconds
                self._seconds = min(2 * self._seconds, LONGEST_QUIET_SECONDS)

    def over(self) -> None:
        with self._lock:
            self._accounts.clear()
            self._until, self._seconds = float("-inf"), QUIET_SECONDS


class Poster:
    """Posts statuses; what it cannot post stays due. ``clock``: monotonic."""

    def __init__(
        self,
        store: Store,
        api: Callable[[], StatusApi],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._api = store, api
        self._outage = _Outage(clock)

    def send(self, post: outbox.Post | None, known: Known | None = None) -> None:
        """Post it, and whatever was noted for the same account and group meanwhile. Never raises.

        ``known``: the documents as the transaction that noted it left them.
        """
        while post is not None:
            try:
                post, known = self._send(post, known)
            except Transient as error:  # Firestore: the lease runs out, the tick posts it
                _log.warning("a status could not be recorded as posted: %s", error)
                return

    def send_due(self) -> int:
        """The tick: post what is due and not being posted; returns how many were taken.

        In another order each time, so that those that fail do not keep the others from their turn.
        Raises StoreUnavailable where it cannot be known what is due.
        """
        taken = 0
        query = self._store.statuses_due().limit(MOST_DUE)
        due = self._store.call(lambda: list(query.stream()))
        random.shuffle(due)
        for snapshot in due:
            if self._outage.lasts:
                break
            path = snapshot.reference.path
            try:
                post = self._store.transact(partial(self._take, path=path))
            except Transient as error:
                _log.warning("a due status could not be taken: %s", error)
                continue
            taken += post is not None
            self.send(post)
        return taken

    def _send(
        self, post: outbox.Post, known: Known | None
    ) -> tuple[outbox.Post | None, Known | None]:
        if self._outage.lasts:  # the lease runs out, the tick posts it when ESPF answers again
            return None, None
        api = self._api()
        if not post.may_start(self._store.clock()):
            _log.warning("a status came too late to its post; the next tick posts it")
            return None, None
        try:
            api.post(post.i_account, post.group, post.status, post.message)
        except NoAnswer as error:  # rule hold: it may land yet; the lease runs out by itself
            _log.warning("ESPF did not answer a status: %s", error)
            self._outage.failed(post.i_account)
            return None, None
        except Transient as error:
            self._outage.failed(post.i_account)
            _log.warning("ESPF did not take a status now: %s", error)
            return self._store.transact_on(known, partial(self._record, post=post, posted=False))
        except Terminal as error:
            _log.error("ESPF refused a status; next try in an hour: %s", error)
            self._outage.over()
            return self._store.transact_on(
                known, partial(self._refused, post=post, reason=str(error))
            )
        self._outage.over()
        return self._store.transact_on(known, partial(self._record, post=post, posted=True))

    def _record(self, tx: Tx, post: outbox.Post, *, posted: bool) -> outbox.Post | None:
        reference = self._store.client.document(post.document)
        before = outbox.Status.read(tx.read([reference])[reference.path])
        if not posted:
            tx.merge(reference, outbox.not_posted(before, post.token).write())
            return None
        after = outbox.posted(before, post.revision, post.token)
        token = uuid.uuid4().hex
        taken = outbox.take(after, token, tx.now, tx.after(seconds=outbox.POST_SECONDS))
        fields = (taken or after).write() | {"refused": None, "posted_at": tx.now}
        tx.merge(reference, fields)
        return _post(post.document, post.i_account, post.group, taken, token, tx.sent)

    def _refused(self, tx: Tx, post: outbox.Post, reason: str) -> None:
        reference = self._store.client.document(post.document)
        before = outbox.Status.read(tx.read([reference])[reference.path])
        if before.lease == post.token:
            until = tx.after(seconds=REFUSED_SECONDS)
            tx.merge(reference, {"refused": reason, "lease_until": until})

    def _take(self, tx: Tx, path: str) -> outbox.Post | None:
        reference = self._store.client.document(path)
        data = tx.read([reference])[reference.path] or {}
        token = uuid.uuid4().hex
        taken = outbox.take(
            outbox.Status.read(data), token, tx.now, tx.after(seconds=outbox.POST_SECONDS)
        )
        if taken is None:
            return None
        tx.merge(reference, taken.write())
        return _post(path, data["i_account"], data["group"], taken, token, tx.sent)


def note_status(
    store: Store,
    tx: Tx,
    documents: Mapping[str, dict[str, Any] | None],
    i_account: int | None,
    group: str | None,
    t: SnapshotTime,
    outcome: Outcome,
    reason: str,
) -> outbox.Post | None:
    """Note ESPF's status in the caller's transaction; return the post if it is free to go out.

    ``documents``: what the transaction has read, the status's document among them.
    """
    if group is None or i_account is None or outcome.espf_status is None:
        return None
    reference = store.status(i_account, group)
    before = outbox.Status.read(documents.get(reference.path))
    doc = outbox.note(before, t, outcome.espf_status, reason)
    token = uuid.uuid4().hex
    taken = outbox.take(doc, token, tx.now, tx.after(seconds=outbox.POST_SECONDS))
    if (taken or doc) == before:
        return None
    fields = (taken or doc).write() | {"i_account": i_account, "group": group}
    tx.merge(reference, fields | {"expire_at": tx.after(days=TOMBSTONE_DAYS)})
    return _post(reference.path, i_account, group, taken, token, tx.sent)


def _post(
    path: str, i_account: int, group: str, taken: outbox.Status | None, token: str, sent: float
) -> outbox.Post | None:
    if taken is None:
        return None
    status, message, revision = taken.status, taken.message, taken.revision
    return outbox.Post(path, i_account, group, status, message, revision, token, sent)
