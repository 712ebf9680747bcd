"""The history entry of an event: one document, made once, whatever is sent again.

Firestore's commit time of the entry (or of a later write to it) is when the event counts as
received: the one clock by which snapshots are ordered.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.event import EspfEvent, Owner, SnapshotTime
from nsps.messages import RawEventMessage
from nsps.redact import Redactor
from nsps.snapshot import PbData
from nsps.store import HISTORY_DAYS, Store

MAX_SNAPSHOT_BYTES = 900_000
"""What an entry keeps of a compressed snapshot; Firestore's documents end at 1 MiB."""


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

    def open(
        self, raw: RawEventMessage, event: EspfEvent, owner: Owner, handlers: Sequence[str]
    ) -> Entry:
        """Make the event's entry, or find the one that is there and mark the new try.

        Raises StoreUnavailable.
        """
        from google.api_core.exceptions import AlreadyExists

        reference = self._store.event(raw.event_id)
        first = self._first(raw, event, owner, handlers)
        try:
            written = self._store.create(reference, first)
            return Entry(time_of_receipt(written, raw.event_id), written, False)
        except AlreadyExists:
            found = self._store.call(reference.get)
        data = found.to_dict() or {}
        created_at = found.create_time or self._now()
        if data.get("enriched_at") and raw.handler is None:
            return Entry(SnapshotTime(data["t"]), created_at, True)
        fields: dict[str, Any] = {"again_at": self._now()}
        if raw.run is None and not data.get("enriched_at"):
            fields |= _wanted_now(data, handlers)
        written = self._store.merge(reference, fields)
        return Entry(time_of_receipt(written, raw.event_id), created_at, False)

    def _first(
        self, raw: RawEventMessage, event: EspfEvent, owner: Owner, handlers: Sequence[str]
    ) -> dict[str, Any]:
        return {
            "event_type": event.event_type,
            "variables": self._redactor().for_store(dict(event.variables)),
            "i_event": event.entity("i_event"),
            "i_env": event.i_env,
            "owner": str(owner),
            "i_account": owner.i_account,
            "handlers": list(handlers),
            "state": "received" if handlers else "unhandled",
            "received_at": raw.received_at,
            "opened_at": self._now(),
            "trace_id": raw.trace.trace_id,
            "request_id": raw.trace.request_id,
            "expire_at": self._now() + timedelta(days=HISTORY_DAYS),
        }

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
        if raw.run is None:
            fields |= {"state": "enriched", "enriched_at": self._now(), "read_ms": read_ms}
        self._merge(raw.event_id, fields)

    def failed(self, raw: RawEventMessage, error: str) -> None:
        """Record why enrichment could not be done this time. Raises StoreUnavailable."""
        told = self._redactor().text_for_store(error)
        retry = {"retry": {"error": told, "at": self._now()}}
        if raw.run is None or raw.handler is None:
            self._merge(raw.event_id, retry)
            return
        delivery = self._store.delivery(raw.handler, f"{raw.event_id}.{raw.run}")
        ends = {"expire_at": self._now() + timedelta(days=HISTORY_DAYS)}
        self._store.merge(delivery, retry | ends)  # a replay's failure is its own

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
