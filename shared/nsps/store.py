"""Firestore: one client per instance, where documents are, and transactions that end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from nsps.outcome import Unreachable

if TYPE_CHECKING:
    from google.cloud.firestore import Client, CollectionReference, DocumentReference, Query

T = TypeVar("T")

_NEVER = datetime(1, 1, 1, tzinfo=UTC)

HISTORY_DAYS = 92
"""How long the history is kept (three months), by the TTL policy on ``expire_at``."""
MAX_ID = 1000
"""Bytes of a document id; Firestore's end at 1500."""
TOMBSTONE_DAYS = 184
"""How long the ledger remembers what nobody owns: longer than any message can live."""


class StoreUnavailable(Unreachable):
    """Firestore could not be reached, or did not decide in time."""


def open_store(project: str, database: str) -> Store:
    """The instance's one Firestore client (FIRESTORE_EMULATOR_HOST is honoured)."""
    from google.cloud import firestore

    return Store(firestore.Client(project=project, database=database))


@dataclass(frozen=True, slots=True)
class Store:
    """Where every document is. Collections are listed in docs/reference."""

    client: Client

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
        return _where(self.client.collection("handlers", handler, "resources"), "owner", owner)

    def order(self, handler: str, reference: str) -> DocumentReference:
        return self.client.document("handlers", handler, "orders", _id(reference))

    def orders(self, handler: str) -> CollectionReference:
        return self.client.collection("handlers", handler, "orders")

    def status(self, i_account: int, group: str) -> DocumentReference:
        return self.client.document("statuses", f"{i_account}.{quote(group, safe='')}")

    def statuses_due(self) -> Query:
        """What ESPF has still to hear."""
        return _where(self.client.collection("statuses"), "due", True)

    def parked(self, name: str) -> DocumentReference:
        return self.client.document("parked", name)

    def audit_entry(self) -> DocumentReference:
        """A new entry of the audit trail."""
        return self.client.collection("audit").document()

    @staticmethod
    def call(what: Callable[[], T]) -> T:
        """One read or write outside of a transaction. Raises StoreUnavailable."""
        from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, RetryError

        try:
            return what()
        except AlreadyExists:
            raise
        except (GoogleAPICallError, RetryError) as error:
            raise StoreUnavailable(f"Firestore did not answer: {type(error).__name__}") from error

    def read(self, reference: DocumentReference) -> dict[str, Any] | None:
        """One document; None if it is not there. Raises StoreUnavailable."""
        snapshot = self.call(reference.get)
        return snapshot.to_dict() if snapshot.exists else None

    def create(self, reference: DocumentReference, fields: dict[str, Any]) -> datetime:
        """Make a document; returns when. Raises StoreUnavailable, and AlreadyExists as it is."""
        return cast(datetime, self.call(lambda: reference.create(fields)).update_time)

    def merge(self, reference: DocumentReference, fields: dict[str, Any]) -> datetime:
        """Set these top-level fields, and leave others; returns when. Raises StoreUnavailable."""
        batch = self.client.batch()
        batch.set(reference, fields, merge=list(fields))
        return cast(datetime, self.call(batch.commit)[0].update_time)

    def find(self, query: Query) -> list[dict[str, Any]]:
        """The documents that a query finds. Raises StoreUnavailable."""
        return self.call(lambda: [snapshot.to_dict() or {} for snapshot in query.stream()])

    def transact(self, body: Callable[[Tx], T], *, attempts: int = 20) -> T:
        """Run ``body`` as one serializable transaction, again while others get in its way.

        ``body`` must only read and write through the Tx it is given; it may run several times.
        Raises StoreUnavailable; the commit may then be in doubt, which every caller bears (each
        transaction may be run again).
        """
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.cloud.firestore import transactional

        def once(transaction: Any) -> T:
            tx = Tx(transaction)
            result = body(tx)
            tx.flush()
            return result

        try:
            return cast(T, transactional(once)(self.client.transaction(max_attempts=attempts)))
        except (GoogleAPICallError, RetryError) as error:
            raise StoreUnavailable(f"Firestore did not answer: {type(error).__name__}") from error
        except ValueError as error:  # the client wraps what happened last in a ValueError
            reason = error.__cause__ or error.__context__
            if not isinstance(reason, GoogleAPICallError | RetryError):
                raise
            raise StoreUnavailable(
                f"Firestore did not commit: {type(reason).__name__} ({attempts} attempts)"
            ) from error


@dataclass(slots=True)
class Tx:
    """One run of a transaction: reads first, then writes that are sent with the commit."""

    transaction: Any
    now: datetime = _NEVER
    """The server's time of the newest read: leases are counted from it."""
    _writes: dict[str, tuple[DocumentReference, dict[str, Any]]] = field(default_factory=dict)

    def read(self, references: Iterable[DocumentReference]) -> dict[str, dict[str, Any] | None]:
        """The documents by path; None for one that is not there."""
        found: dict[str, dict[str, Any] | None] = {}
        for snapshot in self.transaction.get_all(list(references)):
            found[snapshot.reference.path] = snapshot.to_dict() if snapshot.exists else None
            self.now = max(self.now, snapshot.read_time)
        return found

    def query(self, query: Query) -> dict[str, dict[str, Any]]:
        """The documents that a query finds, by path; phantoms make the commit fail."""
        found: dict[str, dict[str, Any]] = {}
        for snapshot in self.transaction.get(query):
            found[snapshot.reference.path] = snapshot.to_dict() or {}
            self.now = max(self.now, snapshot.read_time)
        return found

    def merge(self, reference: DocumentReference, fields: Mapping[str, Any]) -> None:
        """Set these top-level fields of the document, and leave its others."""
        _, before = self._writes.get(reference.path, (reference, {}))
        self._writes[reference.path] = (reference, {**before, **fields})

    def flush(self) -> None:
        for reference, fields in self._writes.values():
            self.transaction.set(reference, fields, merge=list(fields))

    def after(self, *, days: float = 0, seconds: float = 0) -> datetime:
        """That long after the server's time of this transaction."""
        return self.now + timedelta(days=days, seconds=seconds)


def _where(collection: CollectionReference, name: str, value: Any) -> Query:
    from google.cloud.firestore import FieldFilter

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
