"""A handler tried on one subscriber: the requests it would make, or makes, and their answers.

Without ``send`` the system is read, and the first request that would change something is shown for
each resource and not sent. With it the subscriber is delivered as any event is: one writer at a
time, with its place in the history.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nsps.connector.base import Call, Connector, Enriched, State, StateConnector
from nsps.connector.preview import Compared, Comparison, Inspector, NoState
from nsps.delivery.verdict import Verdict
from nsps.domain.event import Owner
from nsps.domain.outcome import DeliveryError
from nsps.runtime.redact import Redactor
from nsps.runtime.settings import HandlerSettings
from nsps.transport.deadline import Deadline
from nsps.transport.transcript import NotSent, Transcript, writing


@dataclass(frozen=True, slots=True)
class Trial:
    """Safe to share between threads."""

    handler: HandlerSettings
    connector: Connector[Any]
    inspector: Inspector
    redactor: Callable[[], Redactor]
    deliver: Callable[[Enriched], Verdict]

    def of(self, owner: Owner, *, send: bool) -> dict[str, Any]:
        """{owner, resources, exchanges, outcome, reason}. Raises NoState, Transient."""
        if not (isinstance(self.connector, StateConnector) and self.connector.shows_requests):
            raise NoState(
                f"{self.handler.name}: its connector cannot show its requests: "
                f"nsps reconcile --handler {self.handler.name} compares its system instead"
            )
        event = self.inspector.read_now(owner, str(uuid.uuid4()))
        with self.redactor().knowing(event.pb.to_contract()):
            tried = self._sent(event) if send else self._shown(self.connector, event)
            shown: dict[str, Any] = self.redactor().for_store(tried)
            return {"owner": str(event.owner), **shown}

    def _sent(self, event: Enriched) -> dict[str, Any]:
        with writing(Transcript(send=True)) as transcript:
            verdict = self.deliver(event)
        return {
            "resources": [],
            "exchanges": transcript.to_json(),
            "outcome": verdict.outcome.value,
            "reason": verdict.reason,
        }

    def _shown(self, connector: StateConnector[Any], event: Enriched) -> dict[str, Any]:
        with writing(Transcript(send=False)) as transcript:
            found = self.inspector.resources(event)
            rejected = any(each.what is Comparison.REJECTED for each in found)
            states = {} if rejected else connector.desired(event)
            reasons = [self._withheld(connector, each, states.get(each.key)) for each in found]
        return {
            "resources": [each.to_json() for each in found],
            "exchanges": transcript.to_json(),
            "outcome": None,
            "reason": "; ".join(filter(None, reasons)),
        }

    def _withheld(
        self, connector: StateConnector[Any], found: Compared, state: State | None
    ) -> str:
        """Go as far as the first request that would change something; why it came not so far."""
        call = Call(Deadline(self.handler.call_timeout_seconds), reference=f"try/{found.key}")
        try:
            if found.what is Comparison.LEFT_OVER:
                with writing(Transcript(send=False)):  # it is in the transcript already
                    held = connector.read(found.key, call)
                if held is not None:
                    connector.delete(found.key, held, call)
            elif state is not None and found.what is Comparison.MISSING:
                connector.create(found.key, state, call)
            elif state is not None and found.what is Comparison.DIFFERENT:
                with writing(Transcript(send=False)):  # it is in the transcript already
                    was = connector.read(found.key, call)
                connector.change(found.key, state, was or {}, call)
        except NotSent:
            return ""
        except DeliveryError as error:
            return str(error)
        return ""
