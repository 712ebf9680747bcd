"""Retries: dead letters come in at POST /, the scheduler's tick at POST /tick."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import google.pubsub_v1  # noqa: F401 (while the instance starts, not at its first message)
from nsps.cloud.identity_token import IdentityTokens
from nsps.cloud.messages import PushMessage
from nsps.cloud.push import PushGuard, PushRefused
from nsps.cloud.receiver import Reply, acknowledged, healthy, receive
from nsps.cloud.subscriptions import Subscriptions
from nsps.connector.load import late_connectors
from nsps.console.handlers import Handlers
from nsps.delivery.instance import InstanceContext
from nsps.delivery.resend import Resend
from nsps.delivery.switch import Switches
from nsps.flows.callbacks import Answers
from nsps.flows.deadlines import Deadlines
from nsps.flows.maintenance import Maintenance
from nsps.flows.retries import Retries, Upkeep
from nsps.flows.schedules import Schedules
from nsps.runtime.lazy import Lazy
from nsps.runtime.settings import RetriesSettings

if TYPE_CHECKING:
    import flask


_FUNCTIONS = Path(__file__).resolve().parents[1]
"""Where the connectors are, in the repository as in the archive."""


class Function:
    """One instance of the function."""

    def __init__(self) -> None:
        settings = RetriesSettings.from_env(os.environ)
        context = InstanceContext(settings, settings.portabilling)
        self.name = settings.function
        self.guard = PushGuard(settings.push, context.http)
        self.retries = Retries(
            settings.deployment,
            settings.handlers,
            context.store(),
            Resend(context.publisher, settings.events_topic),
            _upkeep(settings, context),
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


def _upkeep(settings: RetriesSettings, context: InstanceContext) -> Upkeep:
    store, poster = context.store(), context.poster()
    maintenance = Maintenance(
        settings.functions,
        Switches(store),
        Lazy(lambda: Subscriptions(settings.push.service_account)),
        context.http,
        IdentityTokens(),
    )
    connectors = Lazy(lambda: late_connectors(_FUNCTIONS, settings.late, context))
    resend = Resend(context.publisher, settings.events_topic)
    answers = Answers(store, poster, resend, context.redactor)
    deadlines = Deadlines(settings.late, connectors, store, answers)
    schedules = Schedules(Handlers(settings.handlers, settings.functions, context.http))
    return Upkeep(poster, maintenance, deadlines, schedules)


_function = Lazy(Function)


def main(request: flask.Request) -> flask.Response:
    """POST /: a dead letter. POST /tick: the scheduler. GET /health."""
    function = _function()
    if request.method == "GET":
        return healthy(function.name).to_flask()
    if request.path.rstrip("/") == "/tick":
        return function.tick(request).to_flask()
    return receive(request, function.guard, function.take).to_flask()
