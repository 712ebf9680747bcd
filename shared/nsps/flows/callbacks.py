"""The flow of callbacks: a late answer in, its deliveries finished, the status posted to ESPF."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nsps.cloud.receiver import Reply
from nsps.cloud.store import Store
from nsps.connector.base import (
    Answer,
    AnswersLater,
    CallbackInvalid,
    CallbackRefused,
    CallbackRequest,
)
from nsps.delivery.history import kept_event
from nsps.delivery.ledger.orders import AnswerEffect, LateAnswer, Orders, Settlement
from nsps.delivery.resend import Resend
from nsps.domain.event import parse_delivery_id, storable
from nsps.domain.outcome import Transient
from nsps.espf.poster import Poster
from nsps.runtime import log
from nsps.runtime.redact import Redactor

_log = log.get(__name__)

MAX_BODY_BYTES = 1_000_000
MAX_ORDER = 300
"""Characters of an order's name that are looked at: a longer one is no order's."""


class Callbacks:
    """Takes late answers; one per instance, safe to share between threads."""

    def __init__(
        self,
        connectors: Mapping[str, AnswersLater],
        answers: Answers,
    ) -> None:
        self._connectors, self._answers = connectors, answers

    def handle(self, handler: str, request: CallbackRequest) -> Reply:
        """Answer one notification: 204 when it is recorded, 401, 404, 400, or 503 (send again).

        A GET is answered 200: Kannel takes nothing else for an answer.
        """
        connector = self._connectors.get(handler)
        if connector is None:
            return Reply(404, {"error": "no handler of this name answers later"})
        if len(request.body) > MAX_BODY_BYTES:
            return Reply(413, {"error": f"the body is larger than {MAX_BODY_BYTES} bytes"})
        try:
            redactor = self._answers.redactor()
            connector.authenticate(request)
            for answer in connector.parse_callback(request):
                self._answers.take(handler, answer)
        except CallbackRefused as error:
            _log.warning("a notification was refused", handler=handler, reason=str(error))
            return Reply(401, {"error": "not authorized"})
        except CallbackInvalid as error:
            _log.warning("a notification cannot be read", handler=handler, reason=str(error))
            return Reply(400, {"error": redactor.text_for_store(str(error))})
        except Transient as error:
            _log.warning("a notification is to be sent again", handler=handler, reason=str(error))
            return Reply(503, {"error": str(error)}, {"Retry-After": "10"})
        return Reply(200) if request.method == "GET" else Reply(204)


class Answers:
    """Takes answers in: settles the order, posts the statuses, and sends again the events that
    waited for it."""

    def __init__(
        self,
        store: Store,
        poster: Poster,
        resend: Resend,
        redactor: Callable[[], Redactor],
    ) -> None:
        self._store, self._poster = store, poster
        self._resend, self.redactor = resend, redactor
        self._orders = Orders(store)

    def take(self, handler: str, answer: Answer, *, ours: bool = False) -> AnswerEffect:
        """Take one answer in, whoever brought it. Raises Transient."""
        message = self.redactor().text_for_store(answer.message)
        order = storable(answer.order[:MAX_ORDER])
        late = LateAnswer(order, answer.state, message, answer.at, ours)
        settlement = self._orders.record(handler, late)
        _log.info("an answer was recorded", handler=handler, effect=settlement.effect.value)
        self._complete(handler, settlement)
        return settlement.effect

    def finish(self, handler: str, reference: str) -> None:
        """Complete an order whose answer was taken in, but whose statuses or followers are left."""
        self._complete(handler, self._orders.complete(handler, reference))

    def _complete(self, handler: str, settlement: Settlement) -> None:
        if settlement.effect in (AnswerEffect.UNKNOWN, AnswerEffect.PROGRESS, AnswerEffect.LATE):
            return
        for post in settlement.posts:
            self._poster.send(post)
        for delivery in settlement.followers:
            self.send_again(handler, delivery)
        self._orders.settle(handler, settlement.reference, settlement.followers)

    def send_again(self, handler: str, delivery: str) -> None:
        """Send a waiting delivery's event through enrichment again, for this handler alone."""
        event_id, run = parse_delivery_id(delivery)
        data = self._store.read(self._store.event(event_id))
        event = kept_event(data or {})
        if data is None or event is None:
            _log.warning("a waiting delivery's event is not in the history", event_id=event_id)
            return
        self._resend.send(event_id, event.json(), handler, data, run=run or None)
