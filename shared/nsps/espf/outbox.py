"""What status ESPF is to get, per (account, group): noted with the outcome, posted from here. Pure.

The protocol is tests/model/status_model.py. A status is noted in the transaction that records the
outcome, so that no crash can come between the two; whoever noted it posts it, and a tick posts
what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nsps.domain.event import BEFORE_ALL, SnapshotTime

POST_SECONDS = 30.0
"""Lease of one post of a status to ESPF."""
CALL_SECONDS = 18.0
"""C of the model: the longest that a post may take, with the login that it may need."""
MARGIN_SECONDS = 2.0
"""M of the model: how far it may overrun that before it can no longer take effect."""

PHASE = {"RETRY": 0, "IN_PROGRESS": 1, "OK": 2, "FAILED": 2}


@dataclass(frozen=True, slots=True)
class Status:
    """Document (account, group). ``posted`` is the revision that ESPF is known to have."""

    t: SnapshotTime = BEFORE_ALL
    phase: int = -1
    status: str = ""
    message: str = ""
    revision: int = 0
    posted: int = 0
    lease: str | None = None
    lease_until: datetime | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any] | None) -> Status:
        if not data:
            return cls()
        return cls(
            t=SnapshotTime(data.get("t", BEFORE_ALL)),
            phase=data.get("phase", -1),
            status=data.get("status", ""),
            message=data.get("message", ""),
            revision=data.get("revision", 0),
            posted=data.get("posted", 0),
            lease=data.get("lease"),
            lease_until=data.get("lease_until"),
        )

    def write(self) -> dict[str, Any]:
        return {
            "t": self.t,
            "phase": self.phase,
            "status": self.status,
            "message": self.message,
            "revision": self.revision,
            "posted": self.posted,
            "due": self.due,
            "lease": self.lease,
            "lease_until": self.lease_until,
        }

    @property
    def due(self) -> bool:
        """Whether ESPF has still to get the newest revision."""
        return self.posted != self.revision


@dataclass(frozen=True, slots=True)
class Post:
    """One status to be posted now: the revision is remembered, whatever is noted meanwhile.

    ``sent``: when the transaction that took the lease was sent, on this process's monotonic clock.
    """

    document: str
    i_account: int
    group: str
    status: str
    message: str
    revision: int
    token: str
    sent: float

    def may_start(self, clock: float) -> bool:
        """Whether enough of the lease is left for the longest post (rule check)."""
        return clock - self.sent <= POST_SECONDS - CALL_SECONDS - MARGIN_SECONDS


def note(doc: Status, t: SnapshotTime, status: str, message: str) -> Status:
    """Note an outcome, unless a newer snapshot's, or a later phase of the same, stands there."""
    phase = PHASE[status]
    if t < doc.t or (t == doc.t and phase < doc.phase):
        return doc
    revision = doc.revision + 1
    if (status, message) == (doc.status, doc.message) and doc.revision > 0:
        revision = doc.revision  # ESPF has it, or will be told: nothing new to say
    return replace(doc, t=t, phase=phase, status=status, message=message, revision=revision)


def take(doc: Status, token: str, now: datetime, until: datetime) -> Status | None:
    """Take the lease to post the newest revision; None if nothing is due or another posts."""
    held = doc.lease is not None and doc.lease != token and doc.lease_until is not None
    if not doc.due or (held and doc.lease_until is not None and doc.lease_until > now):
        return None
    return replace(doc, lease=token, lease_until=until)


def posted(doc: Status, revision: int, token: str) -> Status:
    """ESPF took it: recorded for the revision that was posted, if the lease is still mine."""
    if doc.lease != token:
        return doc
    return replace(doc, posted=revision, lease=None, lease_until=None)


def not_posted(doc: Status, token: str) -> Status:
    """ESPF said "not now": the status stays due, the lease is free at once."""
    return replace(doc, lease=None, lease_until=None) if doc.lease == token else doc
