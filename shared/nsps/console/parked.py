"""Events that used up their quick attempts and wait in Firestore for their next try."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.cloud.firestore import FieldFilter

from nsps.cloud import audit, cursor
from nsps.cloud.messages import ENRICHMENT
from nsps.cloud.store import Store, Tx
from nsps.console.identity import Person
from nsps.delivery.history import UNREADABLE
from nsps.delivery.switch import Switches
from nsps.delivery.timeline import about_parked, expired, last_reason, plain, settled

LETTER_SHOWN = 2000
"""Bytes that are shown of a message that cannot be read."""
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class NotParked(LookupError):
    """Nothing is parked under that name."""


class CannotSendNow(Exception):
    """It would not be sent; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class ParkedPage:
    """``next``: the cursor of the page after it, None at the end."""

    events: list[dict[str, Any]]
    next: str | None


@dataclass(frozen=True, slots=True)
class Parked:
    """What is parked; safe to share between threads."""

    store: Store

    def page(self, stage: str | None, limit: int, after: str = "") -> ParkedPage:
        """The next to be tried first. ``stage``: a handler, or enrichment; None for all.

        Raises ValueError for a cursor that is none, Transient.
        """
        query: Any = self.store.client.collection("parked")
        if stage is not None:
            query = query.where(filter=FieldFilter("stage", "==", stage))
        waits = query.where(filter=FieldFilter("next_try", ">", _LONG_AGO))
        query = waits.order_by("next_try").order_by("__name__")
        position = cursor.read("next_try", after)
        if position is not None:
            query = query.start_after(position)
        snapshots = self.store.call(lambda: list(query.limit(limit).stream()))
        kept = [(each.id, each.to_dict() or {}) for each in snapshots]
        following = None
        if len(kept) == limit:
            last, data = kept[-1]
            following = cursor.write(data["next_try"], last)
        return ParkedPage([_shown(*each) for each in self._unsettled(kept)], following)

    def _unsettled(
        self, kept: Iterable[tuple[str, dict[str, Any]]]
    ) -> list[tuple[str, dict[str, Any]]]:
        """Those that were not delivered meanwhile (the tick finds that out at their next try), each
        with why it failed last."""
        now = datetime.now(UTC)
        waiting = [
            (name, data, about_parked(self.store, data))
            for name, data in kept
            if not expired(data, now)
        ]
        if not waiting:
            return []
        client = self.store.client
        documents = [client.document(reference.path) for _, _, (reference, _) in waiting]
        found = self.store.call(lambda: list(client.get_all(documents)))
        now_is = {each.reference.path: each.to_dict() or {} for each in found}
        return [
            (name, {**data, "reason": last_reason(now_is[about.path], data["reason"])})
            for name, data, (about, field) in waiting
            if not settled(field, now_is[about.path])
        ]

    def send_now(self, name: str, person: Person, reason: str) -> None:
        """Let the next tick send it, within a minute: it is tried as it would have been later.

        Raises NotParked, CannotSendNow, Transient.
        """

        def body(tx: Tx) -> None:
            place = self.store.parked(name)
            data = tx.read([place])[place.path]
            if data is None or data["next_try"] is None:
                raise NotParked("it is not parked any more: it was delivered, or has expired")
            about, _ = about_parked(self.store, data)
            tx.read([about])
            tx.merge(place, {"next_try": tx.now, "last": False})
            tx.merge(about, {"next_try": tx.now})
            audit.note(
                self.store, tx, person.email, person.role.name, "send now", data["event_id"],
                reason, {"stage": data["stage"]},
            )  # fmt: skip

        self._refuse_if_off(name.partition(".")[0])
        self.store.transact(body)

    def _refuse_if_off(self, stage: str) -> None:
        """A tick sends nothing to a handler that is paused or whose system is down."""
        if stage == ENRICHMENT:
            return
        switch = Switches(self.store).read(stage)
        if switch.off:
            raise CannotSendNow(
                f"{stage}: {switch.why()}. Its parked events wait, and use up no try; they can be "
                "sent when it is in service"
            )


def _shown(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    event = json.loads(data["body"] or "{}")
    i_event = event.get("variables", {}).get("i_event")
    letter = data.get("letter")
    return {
        "name": name,
        "stage": data["stage"],
        "event_id": data["event_id"],
        "event_type": event.get("event_type", UNREADABLE),
        "i_event": None if i_event is None else str(i_event),
        "run": data.get("run"),
        "parked_at": plain(data["parked_at"]),
        "tries": data["tries"],
        "next_try": plain(data["next_try"]),
        "last": bool(data.get("last")),
        "reason": data["reason"],
        "letter": None if letter is None else _letter(letter),
    }


def _letter(kept: bytes) -> str:
    """The beginning of a message that cannot be read."""
    return zlib.decompress(kept)[:LETTER_SHOWN].decode("utf-8", "replace")
