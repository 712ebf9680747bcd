"""How a function takes a push: who sent it, what it says, and how the answer reads.

Pub/Sub acknowledges on 2xx and brings anything else again, with back-off and at last to the dead
letters. So every way through here ends in a clear answer, and nothing is acknowledged by accident.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nsps.cloud.messages import ROUND, MalformedMessage, PushMessage
from nsps.cloud.push import PushGuard, PushRefused, parse_push
from nsps.domain.outcome import Transient
from nsps.domain.retry import ROUND_ATTEMPTS
from nsps.runtime import log, trace
from nsps.runtime.trace import Trace

if TYPE_CHECKING:
    import flask

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: code, JSON body (None: empty), headers.

    ``held``: nothing was tried, so that the message stays with Pub/Sub whatever attempt it is.
    """

    code: int
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    held: bool = False

    def to_flask(self) -> flask.Response:
        import flask

        text = "" if self.body is None else json.dumps(self.body, ensure_ascii=False)
        response = flask.Response(text, self.code, mimetype="application/json")
        for name, value in (self.headers or {}).items():
            response.headers[name] = value
        return response


def acknowledged() -> Reply:
    return Reply(204)


def again(reason: str, retry_after: float | None = None, *, held: bool = False) -> Reply:
    """Bring it again: 503, with Retry-After where it is known when that makes sense."""
    headers = {"Retry-After": str(max(1, round(retry_after)))} if retry_after else None
    return Reply(503, {"error": reason}, headers, held)


def healthy(service: str) -> Reply:
    return Reply(200, {"status": "Healthy", "service": service})


def receive(
    request: flask.Request, guard: PushGuard, handle: Callable[[PushMessage], Reply]
) -> Reply:
    """Check a push and hand its message over. Never raises."""
    try:
        guard.check(request.headers)
        message = parse_push(request.get_data(cache=False))
        with trace.use(_trace(message)), log.fields(**_ids(message)):
            reply = _handled(message, handle)
            if reply.code >= 300 and not reply.held and _round_is_over(message):
                _log.warning("tried often enough; a later round of retries brings it again")
                return acknowledged()
            return reply
    except PushRefused as refused:
        _log.warning("a push was refused", reason=str(refused), status=refused.status)
        return Reply(refused.status, {"error": str(refused)})


def _handled(message: PushMessage, handle: Callable[[PushMessage], Reply]) -> Reply:
    try:
        return handle(message)
    except MalformedMessage as error:
        _log.error("a message is not what its topic carries", reason=str(error))
        return Reply(400, {"error": str(error)})
    except Transient as error:
        _log.warning("to be tried again", reason=str(error))
        return again(str(error), error.retry_after)
    except Exception:
        logging.getLogger(__name__).exception("an unexpected error; the message comes again")
        return Reply(500, {"error": "unexpected error; see the log"})


def _round_is_over(message: PushMessage) -> bool:
    """Whether this is a round of the long retries that has had its attempts: it waits parked."""
    return ROUND in message.attributes and (message.delivery_attempt or 1) >= ROUND_ATTEMPTS


def _trace(message: PushMessage) -> Trace:
    return trace.from_attributes(message.attributes)


def _ids(message: PushMessage) -> dict[str, Any]:
    ids: dict[str, Any] = {"event_id": message.attributes.get("event_id")}
    if message.delivery_attempt:
        ids["delivery_attempt"] = message.delivery_attempt
    return ids
