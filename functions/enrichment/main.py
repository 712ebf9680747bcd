"""Enrichment: an event from espf-events, what PortaBilling says of it, and on to its handlers."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from nsps.enrichment import Enrichment
from nsps.history import History
from nsps.instance import Instance
from nsps.messages import Publisher, PushMessage, RawEventMessage
from nsps.portabilling.freshness import FreshReads
from nsps.portabilling.reader import Reader
from nsps.push import PushGuard
from nsps.receiver import Reply, acknowledged, healthy, receive
from nsps.settings import EnrichmentSettings

if TYPE_CHECKING:
    import flask


class Function:
    """One instance of the function."""

    def __init__(self) -> None:
        settings = EnrichmentSettings.from_env(os.environ)
        instance = Instance(settings)
        reader = Reader(instance.portabilling(settings.portabilling), threads=2 * settings.threads)
        self.name = settings.function
        self.guard = PushGuard(settings.push, instance.http)
        self.enrichment = Enrichment(
            settings.handlers,
            settings.enriched_topic,
            History(instance.store(), instance.redactor),
            Publisher(),
            lambda: reader,
            FreshReads(),
        )

    def take(self, push: PushMessage) -> Reply:
        self.enrichment.handle(RawEventMessage.from_push(push))
        return acknowledged()


@cache
def _function() -> Function:
    return Function()


def main(request: flask.Request) -> flask.Response:
    """POST: a Pub/Sub push. GET /health."""
    function = _function()
    if request.method == "GET":
        return healthy(function.name).to_flask()
    return receive(request, function.guard, function.take).to_flask()
