"""What Firestore holds of one account, found and deleted on request.

The external systems are not touched. An account is erased after it was terminated; while any of its
deliveries waits, nothing is, nor while a system still holds something of it, unless asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.cloud.firestore import Client, DocumentReference, FieldFilter

from nsps.cloud import audit
from nsps.cloud.store import Store
from nsps.console.identity import Person
from nsps.delivery.timeline import ENDED
from nsps.domain.event import MESSAGE_KEY
from nsps.domain.outcome import Outcome

AT_ONCE = 400


class NotYet(Exception):
    """The account cannot be erased now; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """Documents of an account, and what speaks against deleting them, for people."""

    documents: tuple[DocumentReference, ...]
    against: tuple[str, ...]

    @property
    def kinds(self) -> dict[str, int]:
        """How many there are of each collection."""
        return dict(sorted(Counter(each.parent.id for each in self.documents).items()))


def find(store: Store, i_account: int, *, held: bool = False) -> Found:
    """Everything that names the account. Raises StoreUnavailable.

    ``held``: also what the ledger knows of systems that still hold something of it.
    """
    search = _Search(store, i_account, held)
    documents = list(search.run())
    unique = {reference.path: reference for reference in documents}
    return Found(tuple(unique.values()), tuple(dict.fromkeys(search.against)))


def erase(store: Store, i_account: int, found: Found, person: Person, reason: str) -> int:
    """Delete what was found; how many documents. Raises NotYet, StoreUnavailable.

    Who asked for it is written down first: what is cut off is seen, and can be done again.
    """
    if found.against:
        raise NotYet(f"nothing was deleted: {'; '.join(found.against)}")

    if found.documents:
        target, details = f"account:{i_account}", {"documents": found.kinds}
        audit.note_alone(store, person.email, person.role.name, "erase", target, reason, details)
    for start in range(0, len(found.documents), AT_ONCE):
        batch = store.client.batch()
        for reference in found.documents[start : start + AT_ONCE]:
            batch.delete(reference)
        store.call(batch.commit)
    return len(found.documents)


class _Search:
    def __init__(self, store: Store, i_account: int, held: bool) -> None:
        self._store, self._i_account, self._held = store, i_account, held
        self._owner = f"account:{i_account}"
        self.against: list[str] = []

    def run(self) -> Iterator[DocumentReference]:
        client: Client = self._store.client
        handlers = [each.id for each in client.collection("handlers").list_documents()]
        events = self._where("events", "i_account", self._i_account)
        for event in events:
            yield event.reference
            data = event.to_dict() or {}
            if data.get("state") not in ENDED:
                self.against.append(f"event {event.id} is {data.get('state')}, not finished")
            yield from self._parked("enrichment", event.id)
            for handler in handlers:
                yield from self._deliveries(handler, event.id)
        for handler in handlers:
            yield from self._ledger(handler)
        for status in self._where("statuses", "i_account", self._i_account):
            yield status.reference
            if (status.to_dict() or {}).get("due"):
                self.against.append("a status of it has still to be sent to ESPF")
        yield from self._findings()

    def _deliveries(self, handler: str, event_id: str) -> Iterator[DocumentReference]:
        """Of the event and its replays (nsps.domain.event.delivery_id)."""
        deliveries = self._store.client.collection("handlers", handler, "deliveries")
        first, last = deliveries.document(event_id), deliveries.document(f"{event_id}.~")
        query = deliveries.order_by("__name__").start_at({"__name__": first})
        for delivery in self._all(query.end_at({"__name__": last})):
            yield delivery.reference
            data = delivery.to_dict() or {}
            outcome = data.get("outcome")
            if outcome is None or not Outcome(outcome).final:
                self.against.append(f"{handler} has not finished event {event_id}")
            yield from self._parked(handler, delivery.id)
            for result in data.get("results") or ():
                yield from self._resource(handler, str(result.get("key", "")))

    def _parked(self, stage: str, delivery: str) -> Iterator[DocumentReference]:
        reference = self._store.parked(f"{stage}.{delivery}")
        if self._store.read(reference) is not None:
            yield reference

    def _resource(self, handler: str, key: str) -> Iterator[DocumentReference]:
        """What is remembered of a resource that has no owner any more."""
        reference = self._store.resource(handler, key)
        data = self._store.read(reference) if key else None
        if data is not None and data.get("owner") is None:
            yield reference

    def _ledger(self, handler: str) -> Iterator[DocumentReference]:
        owner = self._store.owner(handler, self._owner)
        if self._store.read(owner) is not None:
            yield owner
        for resource in self._all(self._store.resources_of(handler, self._owner)):
            in_system = not str((resource.to_dict() or {}).get("key", "")).startswith(MESSAGE_KEY)
            if self._held or not in_system:
                yield resource.reference
            else:
                self.against.append(
                    f"{handler} still holds something of it: terminate it first, and erase it "
                    "there; or write --held, and NSPS forgets that it does"
                )
        orders = self._store.orders(handler).where(filter=FieldFilter("owner", "==", self._owner))
        yield from (order.reference for order in self._all(orders))

    def _findings(self) -> Iterator[DocumentReference]:
        """What reconciles and replays said of it."""
        for job in self._store.client.collection("jobs").list_documents():
            findings = job.collection("findings").where(
                filter=FieldFilter("owner", "==", self._owner)
            )
            yield from (finding.reference for finding in self._all(findings))

    def _where(self, collection: str, field: str, value: object) -> list[Any]:
        query = self._store.client.collection(collection)
        return self._all(query.where(filter=FieldFilter(field, "==", value)))

    def _all(self, query: Any) -> list[Any]:
        return self._store.call(lambda: list(query.stream()))
