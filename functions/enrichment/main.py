"""Enrichment: an event from espf-events, what PortaBilling says of it, and on to its handlers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import google.pubsub_v1  # noqa: F401 (while the instance starts, not at its first message)
from nsps.cloud.messages import PushMessage, RawEventMessage
from nsps.cloud.push import PushGuard
from nsps.cloud.receiver import Reply, acknowledged, again, healthy, receive
from nsps.delivery.gate import Gate
from nsps.delivery.history import History
from nsps.delivery.instance import InstanceContext
from nsps.delivery.switch import Switches
from nsps.flows.enrichment import Enrichment
from nsps.flows.reading import NotAsked, PortaBillingApi, Reading
from nsps.portabilling.freshness import FreshReads
from nsps.portabilling.reader import Reader
from nsps.runtime.lazy import Lazy
from nsps.runtime.settings import EnrichmentSettings

if TYPE_CHECKING:
    import flask


class Function:
    """One instance of the function."""

    def __init__(self) -> None:
        settings = EnrichmentSettings.from_env(os.environ)
        context = InstanceContext(settings, settings.portabilling)
        reader = Reader(context.portabilling(), threads=2 * settings.threads)
        self.name = settings.function
        self.guard = PushGuard(settings.push, context.http)
        switches = Switches(context.store())
        self.enrichment = Enrichment(
            settings.handlers,
            settings.enriched_topic,
            History(context.store(), context.redactor),
            context.publisher(),
            lambda: reader,
            FreshReads(),
            Reading(Gate(PortaBillingApi(), switches), switches),
        )

    def take(self, push: PushMessage) -> Reply:
        try:
            self.enrichment.handle(RawEventMessage.from_push(push))
        except NotAsked as waits:
            return again(str(waits), waits.retry_after, held=True)
        return acknowledged()


_function = Lazy(Function)


def main(request: flask.Request) -> flask.Response:
    """POST: a Pub/Sub push. GET /health."""
    function = _function()
    if request.method == "GET":
        return healthy(function.name).to_flask()
    return receive(request, function.guard, function.take).to_flask()
