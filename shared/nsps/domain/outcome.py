"""The outcomes of a delivery, the status that ESPF gets, and the errors that decide on retries.

A connector raises one of four errors; the kit looks at nothing else. Pure.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What has become of one event for one handler."""

    DELIVERED = "delivered"
    UNCHANGED = "unchanged"  # the system has this state already; nothing was sent
    ACCEPTED = "accepted"  # an asynchronous system took it and will answer later
    RETRYING = "retrying"  # failed for now; Pub/Sub brings it again
    REJECTED = "rejected"  # can never work
    EXPIRED = "expired"  # all tries used
    SUPERSEDED = "superseded"  # a newer snapshot took over
    PARKED = "parked"  # waits in Firestore for its next try
    WAITING = "waiting"  # the handler is paused, or another attempt holds the resource

    @property
    def final(self) -> bool:
        return self in _FINAL

    @property
    def espf_status(self) -> str | None:
        """What ESPF is told: OK, IN_PROGRESS, RETRY or FAILED; None where it is told nothing."""
        return _ESPF.get(self)


_FINAL = frozenset(
    {
        Outcome.DELIVERED,
        Outcome.UNCHANGED,
        Outcome.REJECTED,
        Outcome.EXPIRED,
        Outcome.SUPERSEDED,
    }
)
_ESPF = {
    Outcome.DELIVERED: "OK",
    Outcome.UNCHANGED: "OK",
    Outcome.ACCEPTED: "IN_PROGRESS",
    Outcome.RETRYING: "RETRY",
    Outcome.REJECTED: "FAILED",
    Outcome.EXPIRED: "FAILED",
}

# A delivery with several resources ends as the worst of theirs.
_BADNESS = [
    Outcome.UNCHANGED,
    Outcome.DELIVERED,
    Outcome.SUPERSEDED,
    Outcome.ACCEPTED,
    Outcome.REJECTED,
]


def worst(one: Outcome, other: Outcome) -> Outcome:
    """The worse of two outcomes of an attempt: rejected, accepted, superseded, delivered."""
    return max(one, other, key=_BADNESS.index)


class AnswerState(StrEnum):
    """What an asynchronous system says of an order."""

    PROGRESS = "progress"  # on its way; nothing is decided
    DONE = "done"
    FAILED = "failed"


class DeliveryError(Exception):
    """Why a delivery did not succeed. ``str(error)`` is for operators: no secrets."""


class Transient(DeliveryError):
    """The system said "not done, try later", or was never reached: nothing was changed.

    ``retry_after``: seconds after which a new try makes sense, where the system said so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(Transient):
    """There is no way to the system at the moment: nothing was sent."""


class NoAnswer(Transient):
    """The call went out and no answer came: it may or may not have taken effect."""


class Unclear(NoAnswer):
    """The system answered, and its answer does not say whether the call took effect.

    The call is over: nothing more of it can land.
    """


class Unexpected(NoAnswer):
    """The connector failed in a way that it does not name."""


class Terminal(DeliveryError):
    """The system refused for good: the same state will never be taken."""
