"""The history entry of an event: one document, made once, whatever is sent again.

Firestore's commit time of the entry (or of a later write to it) is when the event counts as
received: the one clock by which snapshots are ordered.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.cloud.messages import RawEventMessage
from nsps.cloud.store import HISTORY_DAYS, Store, Tx
from nsps.delivery.ledger.documents import listed
from nsps.domain.event import EspfEvent, Owner, SnapshotTime, UnreadableOwner, delivery_id, owner_of
from nsps.domain.outcome import Outcome
from nsps.domain.snapshot import PbData
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretUnavailable
from nsps.runtime.trace import Trace

MAX_SNAPSHOT_BYTES = 900_000
"""What an entry keeps of a compressed snapshot; Firestore's documents end at 1 MiB."""
UNREADABLE = "(unreadable)"
"""Stands for the type of an event that cannot be read."""
_VARIABLES = "variables"


@dataclass(frozen=True, slots=True)
class Entry:
    """An event's history entry as this attempt found or made it.

    ``t``: this attempt's time of receipt on Firestore's clock. ``enriched``: the event has been
    enriched and published before.
    """

    t: SnapshotTime
    created_at: datetime
    enriched: bool


class History:
    """Writes the history of events."""

    def __init__(
        self,
        store: Store,
        redactor: Callable[[], Redactor],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._redactor, self._now = store, redactor, now

    def open(self, raw: RawEventMessage, event: EspfEvent, handlers: Sequence[str]) -> Entry:
        """Make the event's entry, or find the one that is there and mark the new try.

        Raises StoreUnavailable.
        """
        from google.api_core.exceptions import AlreadyExists

        reference = self._store.event(raw.event_id)
        first = self._first(raw, event, handlers)
        try:
            written = self._store.create(reference, first)
            return Entry(time_of_receipt(written, raw.event_id), written, False)
        except AlreadyExists:
            found = self._store.call(reference.get)
        data = found.to_dict() or {}
        created_at = found.create_time or self._now()
        if _VARIABLES not in data:  # made for a failure: now it can be written as it should be
            stays = ("opened_at", "state") if handlers else ("opened_at",)
            kept = {name: data[name] for name in stays if name in data}
            self._store.merge(reference, first | kept)
        if data.get("enriched_at") and raw.handler is None:
            return Entry(SnapshotTime(data["t"]), created_at, True)
        fields: dict[str, Any] = {"again_at": self._now()}
        if raw.run is None and not data.get("enriched_at"):
            fields |= _wanted_now(data, handlers)
        written = self._store.merge(reference, fields)
        return Entry(time_of_receipt(written, raw.event_id), created_at, False)

    def _first(
        self, raw: RawEventMessage, event: EspfEvent, handlers: Sequence[str]
    ) -> dict[str, Any]:
        variables = self._redactor().for_store(dict(event.variables))
        about = opening(raw.event_id, event, handlers, raw.received_at, raw.trace, self._now())
        return about | {_VARIABLES: json.dumps(variables, ensure_ascii=False)}

    def enriched(
        self, raw: RawEventMessage, owner: Owner, t: SnapshotTime, pb: PbData, *, read_ms: float
    ) -> None:
        """Record that the event was published with this snapshot. Raises StoreUnavailable.

        A replay has reached one handler only: the event itself may still be on its way to all.
        """
        snapshot, size = self._compressed(pb)
        fields: dict[str, Any] = {
            "owner": str(owner),
            "i_account": owner.i_account,
            "t": t,
            "snapshot": snapshot,
            "snapshot_bytes": size,
        }
        if pb.damaged:
            fields["damaged"] = sorted(pb.damaged)
        if raw.run is None:
            fields |= {"state": "enriched", "enriched_at": self._now(), "read_ms": read_ms}
        self._merge(raw.event_id, fields)

    def failed(
        self,
        raw: RawEventMessage,
        event: EspfEvent | None,
        handlers: Sequence[str],
        error: str,
    ) -> None:
        """Record why enrichment could not be done this time. Raises StoreUnavailable.

        ``event`` is None where it cannot be read. Where there is no entry yet (what failed may have
        been the entry itself), one is made of what Firestore takes in any case.
        """
        retry = {"retry": {"error": self._kept_text(error), "at": self._now()}}
        if raw.run is not None and raw.handler is not None:  # a replay's failure is its own
            delivery = self._store.delivery(raw.handler, delivery_id(raw.event_id, raw.run))
            ends = {"expire_at": self._now() + timedelta(days=HISTORY_DAYS)}

            def note_replay(tx: Tx) -> None:
                found = tx.read([delivery])[delivery.path]
                tx.merge(delivery, retry | ends | listed(found, tx.now))

            self._store.transact(note_replay)
            return
        reference = self._store.event(raw.event_id)
        about = opening(raw.event_id, event, handlers, raw.received_at, raw.trace, self._now())

        def note(tx: Tx) -> None:
            missing = tx.read([reference])[reference.path] is None
            tx.merge(reference, about | retry if missing else retry)

        self._store.transact(note)

    def rejected(self, raw: RawEventMessage, reason: str) -> None:
        """Record that the event can never be provisioned. Raises StoreUnavailable."""
        why, now = self._kept_text(reason), self._now()
        if raw.run is None or raw.handler is None:
            ends = {"retry": {"error": why, "at": now}, "finished_at": now}
            self._merge(raw.event_id, ends | {"state": Outcome.REJECTED.value})
            return
        delivery = self._store.delivery(raw.handler, delivery_id(raw.event_id, raw.run))
        ends = {"finished_at": now, "expire_at": now + timedelta(days=HISTORY_DAYS)}
        outcome = {"outcome": Outcome.REJECTED.value, "errors": [why], "retry": None}
        self._store.merge(delivery, outcome | ends)

    def _kept_text(self, error: str) -> str:
        """The text without secrets; where that cannot be made sure of now, not the text."""
        try:
            return self._redactor().text_for_store(error)
        except SecretUnavailable:
            return "its reason could not be redacted (the digest key cannot be read); see the log"

    def _compressed(self, pb: PbData) -> tuple[bytes | None, int]:
        kept = self._redactor().for_store(pb.to_contract())
        text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        packed = zlib.compress(text.encode("utf-8", "surrogatepass"), 6)
        return (packed if len(packed) <= MAX_SNAPSHOT_BYTES else None), len(text)

    def _merge(self, event_id: str, fields: dict[str, Any]) -> None:
        self._store.merge(self._store.event(event_id), fields)


def _wanted_now(data: dict[str, Any], handlers: Sequence[str]) -> dict[str, Any]:
    """What changes in an entry if a deployment changed who wants the event since its last try."""
    replayed = [name for name, run in (data.get("runs") or {}).items() if run.get("only")]
    names = [*handlers, *(name for name in replayed if name not in handlers)]
    if names == data.get("handlers"):
        return {}
    return {"handlers": names} | ({} if handlers else {"state": "unhandled", "retry": None})


def opening(
    event_id: str,
    event: EspfEvent | None,
    handlers: Sequence[str],
    received_at: str,
    trace: Trace,
    now: datetime,
) -> dict[str, Any]:
    """The fields with which an entry begins, but for its variables; ``event`` is None where it
    cannot be read. All are of a form that Firestore takes, whatever ESPF sent."""
    owner = Owner("event", event_id)
    if event is not None:
        with suppress(UnreadableOwner):
            owner = owner_of(event, event_id)
    return {
        "event_type": event.event_type if event else UNREADABLE,
        "i_event": event.entity("i_event") if event else None,
        "i_env": event.i_env if event else None,
        "owner": str(owner),
        "i_account": owner.i_account,
        "handlers": list(handlers),
        "state": "received" if handlers or event is None else "unhandled",
        "received_at": received_at,
        "opened_at": now,
        "trace_id": trace.trace_id,
        "request_id": trace.request_id,
        "expire_at": now + timedelta(days=HISTORY_DAYS),
    }


def kept_event(entry: Mapping[str, Any]) -> EspfEvent | None:
    """The event of an entry, without its secrets; None where its variables were never kept.

    They are kept as JSON: ESPF's names and numbers are not bound to what Firestore can hold.
    """
    kept = entry.get(_VARIABLES)
    if kept is None:
        return None
    variables = json.loads(kept) if isinstance(kept, str) else kept  # a map: from an older release
    return EspfEvent(entry["event_type"], variables)


def unpacked(snapshot: bytes | None) -> dict[str, Any] | None:
    """The pb_data that an entry keeps, as JSON; None where none was kept."""
    if not snapshot:
        return None
    document = json.loads(zlib.decompress(snapshot))
    return document if isinstance(document, dict) else None


def time_of_receipt(commit_time: datetime, event_id: str) -> SnapshotTime:
    """Commit times are one clock for all instances; the event id breaks ties."""
    moment = commit_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return SnapshotTime(f"{moment}/{event_id}")
