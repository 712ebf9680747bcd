"""One delivery, step by step, from the handler's gate to ESPF's status: ``Pipeline.deliver``.

The kinds of connector differ only in what they want of an event and in how they call their system
(``Kind`` and ``Calls``; connector/kinds.py). Admission, leases, refusals, retries and the status
are the same for all. An attempt may be cut off between any two steps: from the ledger the next one
knows where to go on.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from nsps.cloud.store import StoreUnavailable
from nsps.delivery.gate import Gate
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import Ledger, Progress, Stage, Work
from nsps.delivery.ledger.protocol import CallEnd, Step
from nsps.delivery.verdict import Verdict
from nsps.domain.enriched import Enriched
from nsps.domain.outcome import (
    DeliveryError,
    NoAnswer,
    Outcome,
    Terminal,
    Transient,
    Unclear,
    Unexpected,
)
from nsps.espf import outbox
from nsps.espf.poster import Poster
from nsps.runtime import log
from nsps.transport.call import Call
from nsps.transport.deadline import Deadline

_log = log.get(__name__)

PATIENCE_SECONDS = 5.0
"""How long an attempt waits for another's lease before the message is given back."""

_OVERTAKEN = "another event of the owner went first, with newer data: this one is read again"
_BEHIND = "another event of the owner went first, with newer data, and has not got through"


@dataclass(frozen=True, slots=True)
class Performed:
    """What a call did: ``changed`` False if the system had the state already.

    ``details`` are for people: the action, the fields that differed (never secrets).
    ``order``: the id under which the system will answer later. ``was``: what was there before the
    write, as far as known.
    """

    changed: bool
    details: Mapping[str, Any]
    order: str | None = None
    was: Mapping[str, Any] | None = None


class Calls(ABC):
    """How the system is called for one event's resources."""

    @abstractmethod
    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        """Bring one resource to what is wanted, or remove it."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What an event should bring about. ``record``: more for the delivery document.

    ``after_write``: does what has to follow a write of a step, given what was there before; None
    where nothing has to (``Work.effects`` is then False).
    """

    work: Work
    calls: Calls
    record: Mapping[str, Any] = field(default_factory=dict)
    after_write: Callable[[Step, Mapping[str, Any] | None, Call], None] | None = None


class Kind(Protocol):
    """One of the three kinds of connector."""

    def work(self, event: Enriched) -> Work:
        """The attempt as the ledger knows it, before it is known what is wanted."""

    def desired(self, event: Enriched, work: Work) -> Desired:
        """What the connector wants; it raises Terminal, Transient, or what it does not name."""


class Pipeline:
    """Delivers one handler's events; shared by all threads of an instance."""

    def __init__(
        self,
        kind: Kind,
        ledger: Ledger,
        poster: Poster,
        gate: Gate,
        redact: Callable[[str], str],
        *,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._kind, self._ledger, self._poster, self._gate = kind, ledger, poster, gate
        self._redact, self._patience, self._clock, self._sleep = redact, patience, clock, sleep

    def deliver(self, event: Enriched) -> Verdict:
        """Make one attempt; the verdict says whether the event's message is done with."""
        try:
            work = self._kind.work(event)
            self._end_if_settled(event, work)
            self._admit()
            desired = self._desired(event, work)
            patient_until = self._clock() + self._patience
            progress = self._begin(event, desired)
            while progress.at in (Stage.CALL, Stage.BUSY, Stage.LOST):
                if progress.at is Stage.CALL:
                    progress = self._call_and_settle(event, desired, progress)
                else:
                    self._wait_for_lease(patient_until)
                    progress = self._begin(event, desired)
            return self._report(progress)
        except _Ended as ended:
            return ended.verdict
        except Transient as error:  # Firestore
            return _retrying(str(error), error)

    # ---- the steps, in their order -----------------------------------------------------------

    def _end_if_settled(self, event: Enriched, work: Work) -> None:
        """End here, where calls wait for their turn, an event that needs no call."""
        ended = self._ledger.ended(work, record_of(event)) if self._gate.slow else None
        if ended is not None:
            raise _Ended(self._report(ended))

    def _admit(self) -> None:
        """Go on unless the handler is switched off, or its system must be left alone for now."""
        held = self._gate.admit()
        if held is not None:
            raise _Ended(Verdict(False, Outcome.WAITING, held.reason, held.retry_after, held=True))

    def _desired(self, event: Enriched, work: Work) -> Desired:
        """What the system should hold; where that cannot be said, the delivery ends here."""
        try:
            return self._kind.desired(event, work)
        except Terminal as error:
            self._reject(event, work, error)
        except Transient as error:
            self._postpone(event, work, error)
        except Exception as error:
            self._postpone(event, work, _unexpected(error))

    def _begin(self, event: Enriched, desired: Desired) -> Progress:
        """Take the first resource that needs a call, if this snapshot is the newest."""
        return self._ledger.begin(desired.work, {**record_of(event), **desired.record})

    def _call_and_settle(self, event: Enriched, desired: Desired, progress: Progress) -> Progress:
        """One resource: call the system, do what has to follow the write, and record it."""
        work = desired.work
        self._gate.turn()
        if not self._ledger.may_call(work, progress):
            return replace(progress, at=Stage.LOST)
        step, call, started = progress.current, _call(event, work, progress), self._clock()
        written = False
        try:
            performed = desired.calls.perform(work, step, progress.resource, call)
            if desired.after_write and (performed.changed or progress.resource.owed):
                written = call.wrote = True
                desired.after_write(step, performed.was, call)
        except Terminal as error:
            self._gate.well()
            reason = self._redact(_effect_failed(error) if written else str(error))
            return self._ledger.refused(work, progress, reason, wrote=call.wrote, written=written)
        except Transient as error:
            self._give_back(work, progress, _of_whole_call(call, error, written=written))
        except Exception as error:
            self._give_back(work, progress, _unexpected(error))
        self._gate.well()
        took = {"took_ms": round((self._clock() - started) * 1000, 1)}
        return self._settle(work, progress, performed, {**performed.details, **took})

    def _settle(
        self, work: Work, progress: Progress, performed: Performed, details: Mapping[str, Any]
    ) -> Progress:
        """Record what was done, and take the next resource or finish."""
        if performed.order is not None:
            return self._ledger.accepted(work, progress, performed.order, details)
        return self._ledger.done(work, progress, details, changed=performed.changed)

    def _report(self, progress: Progress) -> Verdict:
        """Tell ESPF what the ledger noted for it; the message is done with unless it must wait."""
        if progress.at is Stage.HELD:
            asked = f"the system asked to be left alone for {progress.wait:.0f} s more"
            return Verdict(False, Outcome.WAITING, asked, progress.wait)
        if progress.at is Stage.OVERTAKEN:
            return Verdict(False, Outcome.WAITING, _OVERTAKEN, read_again=True)
        if progress.at is Stage.BEHIND:
            return Verdict(False, Outcome.WAITING, _BEHIND)
        self._poster.send(progress.post, progress.known)
        return Verdict(True, progress.outcome, "; ".join(progress.errors))

    # ---- where an attempt ends early ----------------------------------------------------------

    def _reject(self, event: Enriched, work: Work, error: Terminal) -> NoReturn:
        """The event can never be provisioned, and that is known before any call."""
        reason = self._redact(str(error))
        progress = self._ledger.reject(work, record_of(event), reason)
        self._poster.send(progress.post, progress.known)
        raise _Ended(Verdict(True, progress.outcome, reason))

    def _postpone(self, event: Enriched, work: Work, error: Transient) -> NoReturn:
        """What is wanted cannot be said yet: recorded, and tried again."""
        reason = self._redact(str(error))
        self._end_later(
            lambda: self._ledger.postpone(work, record_of(event), reason), reason, error
        )

    def _wait_for_lease(self, until: float) -> None:
        """Another attempt holds the resource: wait a moment, but not for long."""
        if self._clock() >= until:
            busy = "another delivery is writing this resource"
            raise _Ended(Verdict(False, Outcome.WAITING, busy))
        self._sleep(random.uniform(0.02, 0.1))  # noqa: S311

    def _give_back(self, work: Work, progress: Progress, error: Transient) -> NoReturn:
        """The call was not carried out, or it is not known whether: the message comes again."""
        reason = self._redact(str(error))
        if not isinstance(error, StoreUnavailable):
            self._gate.failed(str(work.owner), reason, error.retry_after)
        self._end_later(
            lambda: self._ledger.not_done(
                work, progress, reason, call=_call_end(error), retry_after=error.retry_after
            ),
            reason,
            error,
        )

    def _end_later(
        self, record: Callable[[], outbox.Post | None], reason: str, error: Transient
    ) -> NoReturn:
        try:
            self._poster.send(record())
        except Transient as unrecorded:  # the message comes again all the same
            _log.warning("the failure could not be recorded", reason=str(unrecorded))
        raise _Ended(_retrying(reason, error, error.retry_after))


def record_of(event: Enriched) -> dict[str, Any]:
    """What the delivery document says of its event, for people."""
    return {
        "event_id": event.event_id,
        "event_type": event.event.event_type,
        "owner": str(event.owner),
        "i_account": event.owner.i_account,
        "run": event.run,
        "enriched_at": event.updated_at,
    }


def _call(event: Enriched, work: Work, progress: Progress) -> Call:
    return Call(
        deadline=Deadline(work.call_seconds),
        reference=f"{work.delivery}/{progress.current.key}",
        event_id=event.event_id,
        trace_id=event.trace_id,
        request_id=event.request_id,
    )


def _unexpected(error: Exception) -> Unexpected:
    _log.error("the connector failed in a way it does not name", error=error)
    name = type(error).__name__
    return Unexpected(f"the connector failed unexpectedly ({name}): its log says where")


def _of_whole_call(call: Call, error: Transient, *, written: bool) -> Transient:
    """What an error says of a whole call: a part of it that was written stays written."""
    if written:
        kind = type(error) if isinstance(error, NoAnswer) else Unclear
        return kind(_effect_failed(error), error.retry_after)
    if not call.wrote or isinstance(error, NoAnswer):
        return error
    return Unclear(f"a part was written before this: {error}", error.retry_after)


def _effect_failed(error: DeliveryError) -> str:
    """The text for an error in what has to follow a write."""
    return f"the state is written, and what has to follow it is owed: {error}"


def _call_end(error: Transient) -> CallEnd:
    if isinstance(error, Unclear):
        return CallEnd.UNCLEAR
    return CallEnd.UNDER_WAY if isinstance(error, NoAnswer) else CallEnd.NOT_DONE


class _Ended(Exception):
    """Ends an attempt before its last step."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def _retrying(reason: str, error: BaseException, retry_after: float | None = None) -> Verdict:
    return Verdict(False, Outcome.RETRYING, reason, retry_after, error)
