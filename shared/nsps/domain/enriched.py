"""An event together with what PortaBilling says of its owner now."""

from __future__ import annotations

from dataclasses import dataclass

from nsps.domain.event import EspfEvent, Owner, SnapshotTime, delivery_id
from nsps.domain.snapshot import PbData


@dataclass(frozen=True, slots=True)
class Enriched:
    """An event with the snapshot of its owner, as a connector sees it.

    ``pb`` holds the blocks that the handler requires and no others; to look at another raises
    BlockNotRead, and the delivery waits until the handler requires it. ``t`` is when the read of
    the snapshot began. Equal snapshots give equal states: never look at the event type to decide
    them.
    """

    event_id: str
    event: EspfEvent
    owner: Owner
    t: SnapshotTime
    pb: PbData
    created_at: str
    updated_at: str
    run: int = 0
    trace_id: str = ""
    request_id: str = ""

    @property
    def delivery_id(self) -> str:
        """The id of its delivery to a handler."""
        return delivery_id(self.event_id, self.run)
