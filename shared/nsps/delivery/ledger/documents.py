"""The ledger's documents, per handler, and how they are written in Firestore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nsps.domain.event import BEFORE_ALL, SnapshotTime
from nsps.domain.outcome import Outcome

MOST_MEANINGS = 32
"""How many meanings an owner's document keeps. Without its mark an older event is not superseded,
but read again and sent: no harm."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Document (handler, event): the newest snapshot it began with, and what became of it.

    ``read_again``: how often its event was sent to be read again, for it was overtaken.
    """

    t: SnapshotTime = BEFORE_ALL
    outcome: Outcome | None = None
    read_again: int = 0

    @classmethod
    def read(cls, data: Mapping[str, Any] | None) -> Delivery:
        if not data:
            return cls()
        outcome = data.get("outcome")
        return cls(
            SnapshotTime(data.get("t", BEFORE_ALL)),
            Outcome(outcome) if outcome else None,
            data.get("read_again", 0),
        )


def listed(delivery: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """The fields by which a delivery that is open is found and ordered; ``delivery``: its document
    before this attempt. Without them no index would have it."""
    kept = delivery or {}
    return {"outcome": kept.get("outcome"), "begun_at": kept.get("begun_at") or now}


@dataclass(frozen=True, slots=True)
class Watermark:
    """Document (handler, owner): the newest snapshot time begun, and by which event.

    Where only an event of the same ``meaning`` (a digest) may take another's place, the document
    has one for each meaning instead.
    """

    t: SnapshotTime = BEFORE_ALL
    by: str = ""

    @classmethod
    def read(cls, data: Mapping[str, Any] | None, meaning: str | None = None) -> Watermark:
        kept = data or {}
        if meaning is not None:
            kept = kept.get("meanings", {}).get(meaning, {})
        return cls(SnapshotTime(kept.get("watermark", BEFORE_ALL)), kept.get("by", ""))

    def write(self, data: Mapping[str, Any] | None, meaning: str | None = None) -> dict[str, Any]:
        """The fields to merge into the document, which holds ``data`` now."""
        mine = {"watermark": self.t, "by": self.by}
        if meaning is None:
            return mine
        marks = {**(data or {}).get("meanings", {}), meaning: mine}
        newest = sorted(marks, key=lambda each: str(marks[each]["watermark"]))[-MOST_MEANINGS:]
        return {"meanings": {each: marks[each] for each in newest}}


@dataclass(frozen=True, slots=True)
class Pending:
    """An order that an asynchronous system has, or may have, and has not answered yet."""

    reference: str
    wanted: str
    """Digest of the state that was ordered; empty for a removal."""
    doubt_until: datetime | None = None
    """Until when it is in doubt whether the system has it; None: it has."""
    submitted: int = 1
    """How often it was begun to be submitted."""

    @classmethod
    def read(cls, data: Mapping[str, Any] | None) -> Pending | None:
        if not data:
            return None
        return cls(
            data["reference"], data["wanted"], data.get("doubt_until"), data.get("submitted", 1)
        )

    def write(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "wanted": self.wanted,
            "doubt_until": self.doubt_until,
            "submitted": self.submitted,
        }


@dataclass(frozen=True, slots=True)
class Resource:
    """Document (handler, key): what the external system is believed to hold for one key.

    ``claim_t`` is the newest snapshot time at which any owner claimed it: never lowered, never
    removed. ``confirmed`` is the digest of the last state the system confirmed, or None.
    ``dirty``: the system may hold something else. ``foreign``: it may hold a former owner's state.
    ``owed``: what has to follow a write (a CoA, a forced sign-off) may not have been carried out.
    """

    owner: str | None = None
    claim_t: SnapshotTime = BEFORE_ALL
    confirmed: str | None = None
    dirty: bool = False
    foreign: bool = False
    owed: bool = False
    lease: str | None = None
    lease_until: datetime | None = None
    pending: Pending | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any] | None) -> Resource:
        if not data:
            return cls()
        return cls(
            owner=data.get("owner"),
            claim_t=SnapshotTime(data.get("claim_t", BEFORE_ALL)),
            confirmed=data.get("confirmed"),
            dirty=data.get("dirty", False),
            foreign=data.get("foreign", False),
            owed=data.get("owed", False),
            lease=data.get("lease"),
            lease_until=data.get("lease_until"),
            pending=Pending.read(data.get("pending")),
        )

    def write(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "claim_t": self.claim_t,
            "confirmed": self.confirmed,
            "dirty": self.dirty,
            "foreign": self.foreign,
            "owed": self.owed,
            "lease": self.lease,
            "lease_until": self.lease_until,
            "pending": self.pending.write() if self.pending else None,
        }

    def held_by_other(self, token: str, now: datetime) -> bool:
        """Whether another attempt's lease has not run out at the server's time ``now``."""
        if self.lease is None or self.lease == token:
            return False
        return self.lease_until is not None and self.lease_until > now

    def held_by(self, token: str) -> bool:
        return self.lease == token
