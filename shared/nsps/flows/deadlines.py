"""Orders that an asynchronous system has not answered in time: asked for, or ended as FAILED (as
OK where only failures are reported).

Also completes what was answered but, after a crash, not finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from nsps.cloud.store import Store
from nsps.connector.base import Answer, AnswersLater, AnswerState, Call
from nsps.delivery.ledger.orders import Orders
from nsps.domain.outcome import Terminal, Transient
from nsps.flows.callbacks import Answers
from nsps.runtime import log
from nsps.runtime.settings import HandlerSettings
from nsps.transport.deadline import Deadline

_log = log.get(__name__)

ASK_AGAIN_SECONDS = 3600.0
GIVE_UP_DAYS = 30


class Deadlines:
    """One per instance; safe to share between threads and instances."""

    def __init__(
        self,
        handlers: Sequence[HandlerSettings],
        connectors: Callable[[], Mapping[str, AnswersLater]],
        store: Store,
        answers: Answers,
    ) -> None:
        self._handlers = {handler.name: handler for handler in handlers}
        self._connectors, self._answers = connectors, answers
        self._orders = Orders(store)

    def tick(
        self, handler: str, now: datetime, *, may_ask: bool, goes_on: Callable[[], bool]
    ) -> int:
        """Deal with one handler's due orders while ``goes_on``; how many.

        ``now``: Firestore's time. ``may_ask``: its system may be called. Raises Transient.
        """
        done = 0
        for order in self._orders.due(handler, now):
            if not goes_on():
                break
            if order.get("answer"):
                self._answers.finish(handler, order["reference"])
            elif may_ask:
                self._late(handler, order)
            done += 1
        return done

    def _late(self, handler: str, order: Mapping[str, Any]) -> None:
        reference = str(order["reference"])
        waited_days = self._orders.claim(handler, reference, ASK_AGAIN_SECONDS)
        if waited_days is None:
            return  # another tick has it, or it was answered just now
        connector = self._connectors()[handler]
        hours = self._handlers[handler].answer_within_hours
        why = f"the system did not answer within {hours:g} hours"
        if connector.askable:
            try:
                answer = connector.ask(str(order["order_id"]), self._call(handler, reference))
            except Terminal as error:
                why = f"{why}, and says now: {error}"
            except Transient as error:
                _log.warning("an order could not be asked for", handler=handler, reason=str(error))
                if waited_days < GIVE_UP_DAYS:
                    return
            else:
                self._answers.take(handler, answer)
                if answer.state is not AnswerState.PROGRESS or waited_days < GIVE_UP_DAYS:
                    return
                why = f"the system has been at it for {waited_days:.0f} days"
        self._answers.take(handler, Answer(reference, connector.silence, why), ours=True)

    def _call(self, handler: str, reference: str) -> Call:
        seconds = self._handlers[handler].call_timeout_seconds
        return Call(Deadline(seconds), reference=f"{reference}/ask")
