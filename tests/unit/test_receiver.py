"""How a push is answered: what is acknowledged, what comes again, and that nothing escapes."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

import flask
import pytest
from nsps.cloud.messages import MalformedMessage, PushMessage
from nsps.cloud.push import PushRefused
from nsps.cloud.receiver import Reply, acknowledged, again, healthy, receive
from nsps.domain.outcome import Transient
from nsps.domain.retry import ROUND_ATTEMPTS
from nsps.runtime import log, trace

APP = flask.Flask(__name__)


class Guard:
    def __init__(self, refuses: PushRefused | None = None) -> None:
        self.refuses = refuses

    def check(self, headers: Any) -> None:
        if self.refuses:
            raise self.refuses


def push(
    handle: Callable[[PushMessage], Reply],
    body: bytes | None = None,
    attempt: int | None = None,
    guard: Guard | None = None,
    **attributes: str,
) -> flask.Response:
    message = {
        "message": {
            "data": base64.b64encode(b"{}").decode(),
            "attributes": {"event_id": "e-1", **attributes},
            "messageId": "7",
        },
        "deliveryAttempt": attempt,
    }
    data = body if body is not None else json.dumps(message).encode()
    checked: Any = guard or Guard()
    with APP.test_request_context("/", method="POST", data=data):
        return receive(flask.request, checked, handle).to_flask()


def failing(error: Exception) -> Callable[[PushMessage], Reply]:
    def handle(_: PushMessage) -> Reply:
        raise error

    return handle


def test_done_is_acknowledged() -> None:
    response = push(lambda message: acknowledged())
    assert (response.status_code, response.data) == (204, b"")


def test_the_message_comes_as_it_was_published() -> None:
    seen: list[PushMessage] = []
    traces: list[trace.Trace | None] = []

    def handle(message: PushMessage) -> Reply:
        seen.append(message)
        traces.append(trace.current())
        return acknowledged()

    ident = "4bf92f3577b34da6a3ce929d0e0e4736"
    push(handle, attempt=3, trace_id=ident, request_id="r-9")
    (message,) = seen
    assert (message.data, message.message_id, message.delivery_attempt) == (b"{}", "7", 3)
    assert message.attributes["event_id"] == "e-1"
    assert traces == [trace.Trace(ident, "r-9")]
    assert trace.current() is None


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Transient("busy"), 503, None),
        (Transient("busy", retry_after=7.4), 503, "7"),
        (Transient("busy", retry_after=0.2), 503, "1"),
        (MalformedMessage("no event"), 400, None),
        (RuntimeError("boom"), 500, None),
        (RecursionError(), 500, None),
    ],
)
def test_what_failed_comes_again(error: Exception, status: int, retry_after: str | None) -> None:
    response = push(failing(error))
    assert response.status_code == status
    assert json.loads(response.data)["error"]
    assert response.headers.get("Retry-After") == retry_after
    assert "boom" not in response.get_data(as_text=True)


@pytest.mark.parametrize("status", [400, 401, 403, 503])
def test_who_is_refused_is_told_so_and_nothing_is_handled(status: int) -> None:
    refused = PushRefused(status, "not you")
    response = push(failing(AssertionError("handled")), guard=Guard(refused))
    assert (response.status_code, json.loads(response.data)) == (status, {"error": "not you"})


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b'{"message": 1}', b'{"message": {"messageId": "1", "data": "%"}}']
)
def test_a_push_that_is_none_is_400(body: bytes) -> None:
    assert push(failing(AssertionError("handled")), body=body).status_code == 400


@pytest.mark.parametrize(
    ("attempt", "number", "status"),
    [
        (ROUND_ATTEMPTS - 1, "3", 503),
        (ROUND_ATTEMPTS, "3", 204),
        (99, "1", 204),
        (None, "3", 503),
        (99, None, 503),
    ],
)
def test_a_round_of_retries_ends_after_its_attempts(
    attempt: int | None, number: str | None, status: int
) -> None:
    """Its next one is written down already; without a round the dead letter is what comes next."""
    handle = failing(Transient("busy"))
    response = (
        push(handle, attempt=attempt, rung=number) if number else push(handle, attempt=attempt)
    )
    assert response.status_code == status


def test_a_message_that_is_held_back_is_never_acknowledged_by_its_round() -> None:
    response = push(lambda _: again("paused", 30, held=True), attempt=99, rung="3")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "30")


def test_what_is_logged_inside_carries_the_ids(caplog: pytest.LogCaptureFixture) -> None:
    inside: list[dict[str, Any]] = []

    def handle(_: PushMessage) -> Reply:
        inside.append(dict(log._fields.get()))
        raise RuntimeError("boom")

    with caplog.at_level(logging.DEBUG):
        push(handle, attempt=4)
    assert inside == [{"event_id": "e-1", "delivery_attempt": 4}]
    assert log._fields.get() == {}
    assert any(record.exc_info for record in caplog.records), "the stack is in the log"


def test_health() -> None:
    with APP.app_context():
        response = healthy("hss").to_flask()
    assert response.status_code == 200
    assert json.loads(response.data) == {"status": "Healthy", "service": "hss"}
    assert response.mimetype == "application/json"
