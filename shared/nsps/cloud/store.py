"""Firestore: one client per instance, where documents are, and transactions that end."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from google.api_core.exceptions import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    GoogleAPICallError,
    InvalidArgument,
    NotFound,
    RetryError,
)
from google.cloud.firestore import Client, FieldFilter

from nsps.cloud.documents import COMPUTED, Document, Documents, Transaction, Write
from nsps.domain.outcome import Unreachable

if TYPE_CHECKING:
    from google.cloud.firestore import CollectionReference, DocumentReference, Query

T = TypeVar("T")

_NEVER = datetime(1, 1, 1, tzinfo=UTC)

HISTORY_DAYS = 92
"""How long the history is kept (three months), by the TTL policy on ``expire_at``."""
MAX_ID = 1000
"""Bytes of a document id; Firestore's end at 1500."""
MOST_OWNERS = 30
"""Values that Firestore takes in one `in`."""
TOMBSTONE_DAYS = 184
"""How long the ledger remembers what nobody owns: longer than any message can live."""


def as_json(value: Any) -> str:
    """A value as JSON text: what it holds is then not bound by Firestore's rules (no list in a
    list, no empty name, no number beyond 64 bits, no depth beyond 20)."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def from_json(kept: Any) -> Any:
    """What was kept by ``as_json``. An older release kept the value itself."""
    return json.loads(kept) if isinstance(kept, str) else kept


class StoreUnavailable(Unreachable):
    """Firestore could not be reached, or did not decide in time."""


class StoreRefused(StoreUnavailable):
    """Firestore answered: what was to be written it does not take."""


@dataclass(frozen=True, slots=True)
class Known:
    """Documents as a transaction left them, so that the next need not read them again.

    ``documents``: path -> fields (None for one that is not there) and version. Fields that the
    server computes (a counter) are left out. ``read_at``: the server's time of a read that was
    sent at ``sent`` on this process's clock: with what has passed since, never behind the server's.
    """

    documents: Mapping[str, tuple[dict[str, Any] | None, Any]]
    read_at: datetime
    sent: float


class _NotKnown(Exception):
    """What is known does not do: read in a transaction."""


def open_store(project: str, database: str) -> Store:
    """The instance's one way to Firestore (FIRESTORE_EMULATOR_HOST is honoured)."""
    return Store(Client(project=project, database=database), Documents(project, database))


@dataclass(frozen=True, slots=True)
class Store:
    """Where every document is, and how documents are read and written.

    ``client``: for queries, and for what no event waits for. ``clock``: this process's monotonic
    clock, in seconds.
    """

    client: Client
    documents: Documents
    clock: Callable[[], float] = time.monotonic

    def event(self, event_id: str) -> DocumentReference:
        return self.client.document("events", event_id)

    def events(self) -> CollectionReference:
        return self.client.collection("events")

    def handler(self, handler: str) -> DocumentReference:
        return self.client.document("handlers", handler)

    def delivery(self, handler: str, delivery: str) -> DocumentReference:
        return self.client.document("handlers", handler, "deliveries", delivery)

    def owner(self, handler: str, owner: str) -> DocumentReference:
        return self.client.document("handlers", handler, "owners", _id(owner, safe=":+@"))

    def resource(self, handler: str, key: str) -> DocumentReference:
        return self.client.document("handlers", handler, "resources", resource_id(key))

    def resources_of(self, handler: str, owner: str) -> Query:
        """The resources that the ledger knows for an owner."""
        return _where(self.resources(handler), "owner", owner)

    def resources_of_owners(self, handler: str, owners: Sequence[str]) -> Query:
        """The resources that the ledger knows for any of the owners, at most MOST_OWNERS."""
        return self.resources(handler).where(filter=FieldFilter("owner", "in", list(owners)))

    def order(self, handler: str, reference: str) -> DocumentReference:
        return self.client.document("handlers", handler, "orders", _id(reference))

    def resources(self, handler: str) -> CollectionReference:
        return self.client.collection("handlers", handler, "resources")

    def orders(self, handler: str) -> CollectionReference:
        return self.client.collection("handlers", handler, "orders")

    def status(self, i_account: int, group: str) -> DocumentReference:
        return self.client.document("statuses", f"{i_account}.{quote(group, safe='')}")

    def statuses_due(self) -> Query:
        """The statuses that ESPF has still to get."""
        return _where(self.client.collection("statuses"), "due", True)

    def parked(self, name: str) -> DocumentReference:
        return self.client.document("parked", name)

    def tick(self) -> DocumentReference:
        """When the scheduler came last."""
        return self.client.document("scheduler", "tick")

    def audit_entry(self) -> DocumentReference:
        """A new entry of the audit trail."""
        return self.client.collection("audit").document()

    @staticmethod
    def call(what: Callable[[], T]) -> T:
        """One read or write outside of a transaction. Raises StoreUnavailable."""

        try:
            return what()
        except AlreadyExists:
            raise
        except (GoogleAPICallError, RetryError) as error:
            raise _unavailable(error) from error

    def read(self, reference: DocumentReference) -> dict[str, Any] | None:
        """One document; None if it is not there. Raises StoreUnavailable."""
        (found,) = self.call(lambda: self.documents.get([reference.path]))
        return found.fields

    def create(self, reference: DocumentReference, fields: dict[str, Any]) -> datetime:
        """Make a document; returns when. Raises StoreUnavailable, and AlreadyExists as it is."""
        return self._write(reference, fields, only_if=False)

    def merge(self, reference: DocumentReference, fields: dict[str, Any]) -> datetime:
        """Set these top-level fields, and leave others; returns when. Raises StoreUnavailable."""
        return self._write(reference, fields, only_if=None)

    def _write(
        self, reference: DocumentReference, fields: dict[str, Any], only_if: Any
    ) -> datetime:
        write = Write(reference.path, fields, only_if)
        (updated,) = self.call(lambda: self.documents.commit([write]))
        return cast(datetime, updated.ToDatetime(UTC))

    def find(self, query: Query) -> list[dict[str, Any]]:
        """The documents that a query finds. Raises StoreUnavailable."""
        return self.call(lambda: [snapshot.to_dict() or {} for snapshot in query.stream()])

    def transact(self, body: Callable[[Tx], T], *, attempts: int = 20) -> T:
        """Run ``body`` as one serializable transaction, again while others get in its way.

        ``body`` must only read and write through the Tx it is given; it may run several times.
        Raises StoreUnavailable; the commit may then be in doubt, which every caller bears (each
        transaction may be run again).
        """
        return self.transact_on(None, body, attempts=attempts)[0]

    def transact_on(
        self, known: Known | None, body: Callable[[Tx], T], *, attempts: int = 20
    ) -> tuple[T, Known | None]:
        """The same, and what is known of the documents afterwards.

        With the ``known`` of an earlier transaction: if ``body`` reads nothing else and writes all
        that it reads, its writes are committed at once, each on condition that its document is
        still as it was known. That equals the transaction, without its reads. Otherwise, and where
        a document has changed meanwhile, the transaction is run.
        """
        if known is not None:
            try:
                return self._on_what_is_known(known, body)
            except _NotKnown:
                pass
        return self._in_transaction(body, attempts)

    def _on_what_is_known(self, known: Known, body: Callable[[Tx], T]) -> tuple[T, Known | None]:
        tx = _OnKnown(known, self.clock())
        result = body(tx)
        try:
            return result, tx.left(self.documents.commit(tx.writes()))
        except (Aborted, AlreadyExists, FailedPrecondition, NotFound) as error:
            raise _NotKnown from error
        except GoogleAPICallError as error:
            raise _unavailable(error) from error

    def _in_transaction(self, body: Callable[[Tx], T], attempts: int) -> tuple[T, Known | None]:
        transaction = Transaction()
        for _ in range(attempts):
            tx = _Reading(self.documents, transaction, self.clock())
            try:
                result = body(tx)
                return result, tx.left(self.documents.commit(tx.writes(), transaction))
            except Aborted:  # it keeps its place in the line: no pause is needed
                transaction = transaction.again()
            except BaseException as error:
                self._roll_back(transaction)
                if isinstance(error, GoogleAPICallError):
                    raise _unavailable(error) from error
                raise
        raise StoreUnavailable(f"Firestore did not commit: Aborted, {attempts} times")

    def _roll_back(self, transaction: Transaction) -> None:
        if transaction.id:
            with suppress(GoogleAPICallError):  # then it ends by itself
                self.documents.roll_back(transaction)


class Tx(ABC):
    """One run of a transaction: reads first, then writes that are sent with the commit."""

    def __init__(self, now: datetime, sent: float) -> None:
        self.now = now
        """The server's time of the newest read: leases are counted from it."""
        self.sent = sent
        """When its first read was sent, on this process's clock."""
        self._found: dict[str, tuple[dict[str, Any] | None, Any]] = {}
        self._merged: dict[str, dict[str, Any]] = {}

    @abstractmethod
    def read(self, references: Iterable[DocumentReference]) -> dict[str, dict[str, Any] | None]:
        """The documents by path; None for one that is not there."""

    @abstractmethod
    def query(
        self, collection: CollectionReference, field: str, value: Any, limit: int = 0
    ) -> dict[str, dict[str, Any]]:
        """The documents whose field has this value, by path; phantoms make the commit fail.

        ``limit`` 0: all of them.
        """

    @abstractmethod
    def writes(self) -> list[Write]:
        """What is to be committed."""

    def merge(self, reference: DocumentReference, fields: Mapping[str, Any]) -> None:
        """Set these top-level fields of the document, and leave its others."""
        path = reference.path
        self._merged[path] = {**self._merged.get(path, {}), **fields}

    def after(self, *, days: float = 0, seconds: float = 0) -> datetime:
        """That long after the server's time of this transaction."""
        return self.now + timedelta(days=days, seconds=seconds)

    def left(self, updated: Sequence[Any]) -> Known | None:
        """The documents as the commit left them; ``updated``: when, by document."""
        documents = dict(self._found)
        for (path, fields), time_of in zip(self._merged.items(), updated, strict=True):
            before, _ = documents.get(path, (None, None))
            documents[path] = ({**(before or {}), **_ours(fields)}, time_of)
        return Known(documents, self.now, self.sent)


class _Reading(Tx):
    """On a transaction of Firestore's."""

    def __init__(self, documents: Documents, transaction: Transaction, sent: float) -> None:
        super().__init__(_NEVER, sent)
        self._documents, self._transaction = documents, transaction

    def read(self, references: Iterable[DocumentReference]) -> dict[str, dict[str, Any] | None]:
        paths = [each.path for each in references]
        return self._note(self._documents.get(paths, self._transaction)) if paths else {}

    def query(
        self, collection: CollectionReference, field: str, value: Any, limit: int = 0
    ) -> dict[str, dict[str, Any]]:
        parent = collection.parent
        path = f"{parent.path}/{collection.id}" if parent else collection.id
        found = self._documents.where(path, field, value, limit, self._transaction)
        return self._note(found)

    def writes(self) -> list[Write]:
        return [Write(path, fields) for path, fields in self._merged.items()]

    def _note(self, found: Iterable[Document]) -> dict[str, Any]:
        for each in found:
            self.now = max(self.now, each.read_time)
            self._found[each.path] = (each.fields, each.version)
        return {each.path: each.fields for each in found}


class _OnKnown(Tx):
    """On what an earlier transaction knew, without a read."""

    def __init__(self, known: Known, now: float) -> None:
        passed = timedelta(seconds=now - known.sent)
        super().__init__(known.read_at + passed, now)
        self._known = known

    def read(self, references: Iterable[DocumentReference]) -> dict[str, dict[str, Any] | None]:
        found: dict[str, dict[str, Any] | None] = {}
        for reference in references:
            if reference.path not in self._known.documents:
                raise _NotKnown
            self._found[reference.path] = self._known.documents[reference.path]
            found[reference.path] = self._found[reference.path][0]
        return found

    def query(
        self, collection: CollectionReference, field: str, value: Any, limit: int = 0
    ) -> dict[str, dict[str, Any]]:
        raise _NotKnown

    def writes(self) -> list[Write]:
        """The writes, each on its condition. Raises _NotKnown if one of the reads has none."""
        if self._merged.keys() != self._found.keys():
            raise _NotKnown
        return [
            Write(path, fields, only_if=self._found[path][1])
            for path, fields in self._merged.items()
        ]


def _unavailable(error: Exception) -> StoreUnavailable:
    if isinstance(error, InvalidArgument):
        return StoreRefused("Firestore does not take what was to be written (InvalidArgument)")
    return StoreUnavailable(f"Firestore did not answer: {type(error).__name__}")


def _ours(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose values are ours, and not computed by the server."""
    return {name: value for name, value in fields.items() if not isinstance(value, COMPUTED)}


def _where(collection: CollectionReference, name: str, value: Any) -> Query:
    return collection.where(filter=FieldFilter(name, "==", value))


def _id(name: str, safe: str = "") -> str:
    """Somebody else's name as a document id; one that Firestore does not take is hashed."""
    quoted = quote(name, safe=safe, errors="replace")
    reserved = not quoted.strip(".") or (quoted.startswith("__") and quoted.endswith("__"))
    if reserved or len(quoted) > MAX_ID:
        return f"sha256:{hashlib.sha256(quoted.encode()).hexdigest()}"
    return quoted


def resource_id(key: str) -> str:
    """The document id of a resource: keys are personal (an IMSI) and may hold any character."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
