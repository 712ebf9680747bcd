"""Retries: dead letters come in at POST /, the scheduler's tick at POST /tick."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from nsps.callbacks import Answers
from nsps.instance import Once
from nsps.messages import PushMessage
from nsps.parts import InstanceParts
from nsps.push import PushGuard, PushRefused
from nsps.receiver import Reply, acknowledged, healthy, receive
from nsps.retries import Retries
from nsps.settings import RetriesSettings

if TYPE_CHECKING:
    import flask


class Function:
    """One instance of the function."""

    def __init__(self) -> None:
        settings = RetriesSettings.from_env(os.environ)
        parts = InstanceParts(settings, settings.portabilling)
        store, poster = parts.store(), parts.poster()
        topic = settings.events_topic
        self.name = settings.function
        self.guard = PushGuard(settings.push, parts.http)
        self.retries = Retries(
            settings.deployment,
            settings.handlers,
            store,
            poster,
            parts.publisher,
            topic,
            Answers(store, poster, parts.publisher, topic, parts.redactor),
        )

    def take(self, push: PushMessage) -> Reply:
        self.retries.park(push)
        return acknowledged()

    def tick(self, request: flask.Request) -> Reply:
        try:
            self.guard.check(request.headers)
        except PushRefused as refused:
            return Reply(refused.status, {"error": str(refused)})
        return Reply(200, asdict(self.retries.tick()))


_function = Once(Function)


def main(request: flask.Request) -> flask.Response:
    """POST /: a dead letter. POST /tick: the scheduler. GET /health."""
    function = _function()
    if request.method == "GET":
        return healthy(function.name).to_flask()
    if request.path.rstrip("/") == "/tick":
        return function.tick(request).to_flask()
    return receive(request, function.guard, function.take).to_flask()
