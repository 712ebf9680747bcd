"""One attempt of one delivery, for any kind of connector: ledger steps around the system's calls.

The way of a delivery: the handler's gate admits it (gate.py), its runner says what is desired
(connector/kinds.py), and then, here: begin (``run``); for each resource call, after-write, settle
(``_step``); and ESPF is told. The kinds differ only in what they want (``Work``) and in how one
resource is called for (``Performer``); leases, refusals, retries and the status are the same.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nsps.cloud.store import StoreUnavailable
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import Ledger, Progress, Stage, Work
from nsps.delivery.ledger.protocol import CallEnd, Step, Todo
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
from nsps.espf.poster import Poster
from nsps.transport.call import Call
from nsps.transport.http import Deadline

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long an attempt waits for another's lease before the message is given back."""

_OVERTAKEN = "another event of the owner went first, with newer data: this one is read again"
_BEHIND = "another event of the owner went first, with newer data, and has not got through"


@dataclass(frozen=True, slots=True)
class Performed:
    """What a call did: ``changed`` False if the system had the state already.

    ``details`` are for people: the action, the fields that differed (never secrets).
    ``order``: the id under which the system will answer later. ``effect``: what has to follow
    the write, where the system needs it; also called where nothing changed and it is still owed.
    """

    changed: bool
    details: Mapping[str, Any]
    order: str | None = None
    effect: Callable[[], None] | None = None


class Performer(Protocol):
    """How a kind of connector performs one step against its system."""

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed: ...


class Watch(Protocol):
    """Hears how the system does, call by call."""

    def turn(self) -> None:
        """Wait until the next call is due."""

    def well(self) -> None:
        """It answered, be it with a refusal."""

    def failed(self, owner: str, reason: str, retry_after: float | None) -> None:
        """It could not be reached, or could not do it now."""


class _Unwatched:
    def turn(self) -> None:
        pass

    def well(self) -> None:
        pass

    def failed(self, owner: str, reason: str, retry_after: float | None) -> None:
        pass


UNWATCHED = _Unwatched()


class Attempts:
    """Runs attempts for one handler; shared by all threads of an instance."""

    def __init__(
        self,
        ledger: Ledger,
        poster: Poster,
        performer: Performer,
        redact: Callable[[str], str],
        *,
        watch: Watch = UNWATCHED,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger, self._poster, self._performer = ledger, poster, performer
        self._redact, self._watch = redact, watch
        self._patience, self._clock, self._sleep = patience, clock, sleep

    def run(self, work: Work, event: Enriched, record: Mapping[str, Any]) -> Verdict:
        """Bring the system to ``work.wanted``; answers when it is decided or must be retried."""
        ends = self._clock() + self._patience
        while True:
            try:
                progress = self._ledger.begin(work, record)
                while progress.at is Stage.CALL:
                    progress = self._step(work, progress, event)
            except _GivenBack as given:
                return given.verdict
            except Transient as error:  # Firestore
                return _later(str(error), error)
            if progress.at is Stage.HELD:
                asked = f"the system asked to be left alone for {progress.wait:.0f} s more"
                return Verdict(False, Outcome.WAITING, asked, progress.wait)
            if progress.at is Stage.OVERTAKEN:
                return Verdict(False, Outcome.WAITING, _OVERTAKEN, read_again=True)
            if progress.at is Stage.BEHIND:
                return Verdict(False, Outcome.WAITING, _BEHIND)
            if progress.at not in (Stage.BUSY, Stage.LOST):
                self._poster.send(progress.post, progress.known)
                return Verdict(True, progress.outcome, "; ".join(progress.errors))
            if self._clock() >= ends:
                return Verdict(False, Outcome.WAITING, "another delivery is writing this resource")
            self._sleep(random.uniform(0.02, 0.1))  # noqa: S311

    def reject(self, work: Work, record: Mapping[str, Any], reason: str) -> Verdict:
        """The event can never be provisioned; known before anything is touched."""
        reason = self._redact(reason)
        try:
            progress = self._ledger.reject(work, record, reason)
        except Transient as error:
            return _later(str(error), error)
        self._poster.send(progress.post, progress.known)
        return Verdict(True, progress.outcome, reason)

    def postpone(self, work: Work, record: Mapping[str, Any], error: Transient) -> Verdict:
        """What is wanted cannot be said yet; recorded, and tried again."""
        reason = self._redact(str(error))
        try:
            self._poster.send(self._ledger.postpone(work, record, reason))
        except Transient as unrecorded:  # the message comes again all the same
            _log.warning("the failure could not be recorded: %s", unrecorded)
        return _later(reason, error, error.retry_after)

    def _step(self, work: Work, progress: Progress, event: Enriched) -> Progress:
        """One resource: call the system, do what has to follow the write, settle."""
        self._watch.turn()
        if not self._ledger.may_call(work, progress):
            return replace(progress, at=Stage.LOST)
        step = progress.step
        assert step is not None
        if progress.dropping:
            step = replace(step, todo=Todo.RELEASE, wanted=None)
        call, started = self._call(work, step, event), self._clock()
        written = False
        try:
            performed = self._performer.perform(work, step, progress.resource, call)
            if performed.effect is not None and (performed.changed or progress.resource.owed):
                written = call.wrote = True
                performed.effect()
        except Terminal as error:
            self._watch.well()
            reason = self._redact(_owes(error) if written else str(error))
            return self._ledger.refused(work, progress, reason, wrote=call.wrote, written=written)
        except Transient as error:
            self._give_back(work, progress, _of_all(call, error, written=written))
        except Exception as error:
            _log.exception("the connector failed in a way it does not name; counted as no answer")
            unnamed = Unexpected(f"the connector failed unexpectedly: {type(error).__name__}")
            self._give_back(work, progress, unnamed)
        self._watch.well()
        took = {"took_ms": round((self._clock() - started) * 1000, 1)}
        return self._settle(work, progress, performed, {**performed.details, **took})

    def _settle(
        self, work: Work, progress: Progress, performed: Performed, details: Mapping[str, Any]
    ) -> Progress:
        """Record what was done, and take the next resource or finish."""
        if performed.order is not None:
            return self._ledger.accepted(work, progress, performed.order, details)
        return self._ledger.done(work, progress, details, changed=performed.changed)

    def _call(self, work: Work, step: Step, event: Enriched) -> Call:
        return Call(
            deadline=Deadline(work.call_seconds),
            reference=f"{work.delivery}/{step.key}",
            event_id=event.event_id,
            trace_id=event.trace_id,
            request_id=event.request_id,
        )

    def _give_back(self, work: Work, progress: Progress, error: Transient) -> None:
        reason = self._redact(str(error))
        if not isinstance(error, StoreUnavailable):
            self._watch.failed(str(work.owner), reason, error.retry_after)
        try:
            post = self._ledger.not_done(
                work, progress, reason, call=_end_of(error), retry_after=error.retry_after
            )
        except Transient as unrecorded:  # the message comes again all the same
            _log.warning("the failure could not be recorded: %s", unrecorded)
            post = None
        self._poster.send(post)
        raise _GivenBack(_later(reason, error, error.retry_after))


def _of_all(call: Call, error: Transient, *, written: bool) -> Transient:
    """What an error says of a whole call: a part of it that was written stays written."""
    if written:
        kind = type(error) if isinstance(error, NoAnswer) else Unclear
        return kind(_owes(error), error.retry_after)
    if not call.wrote or isinstance(error, NoAnswer):
        return error
    return Unclear(f"a part was written before this: {error}", error.retry_after)


def _owes(error: DeliveryError) -> str:
    """The error is of what has to follow a write."""
    return f"the state is written, and what has to follow it is owed: {error}"


def _end_of(error: Transient) -> CallEnd:
    if isinstance(error, Unclear):
        return CallEnd.UNCLEAR
    return CallEnd.UNDER_WAY if isinstance(error, NoAnswer) else CallEnd.NOT_DONE


class _GivenBack(Exception):
    """Ends an attempt whose message is to come again."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def _later(reason: str, error: BaseException, retry_after: float | None = None) -> Verdict:
    return Verdict(False, Outcome.RETRYING, reason, retry_after, error)
