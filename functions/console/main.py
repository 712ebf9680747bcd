"""The console: pages for operators, their questions at /api, the work of jobs at POST /work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import google.pubsub_v1  # noqa: F401 (while the instance starts, not at its first message)
from nsps.cloud.identity_token import IdentityTokens
from nsps.cloud.messages import MalformedMessage, PushMessage
from nsps.cloud.push import PushGuard
from nsps.cloud.queues import Queues
from nsps.cloud.receiver import Reply, acknowledged, healthy, receive
from nsps.cloud.subscriptions import Subscriptions
from nsps.console.api import Api, ConsoleContext
from nsps.console.find import Finding
from nsps.console.handlers import Handlers
from nsps.console.health import Health
from nsps.console.identity import Identity, Role
from nsps.console.jobs import Jobs, Worker
from nsps.console.masking import Masking
from nsps.console.now import Now
from nsps.console.pages.forms import FormKey
from nsps.console.pages.site import Site
from nsps.console.reconcile import Reconcile
from nsps.console.replay import Replay
from nsps.console.sending import Sending
from nsps.delivery.instance import InstanceContext
from nsps.delivery.resend import Resend
from nsps.delivery.switch import Switches
from nsps.flows.maintenance import Maintenance
from nsps.portabilling.lists import Lists
from nsps.portabilling.reader import Reader
from nsps.runtime.lazy import Lazy
from nsps.runtime.settings import ConsoleFunctionSettings

if TYPE_CHECKING:
    import flask


class Function:
    """One instance of the function."""

    def __init__(self) -> None:
        settings = ConsoleFunctionSettings.from_env(os.environ)
        context = InstanceContext(settings, settings.portabilling)
        store = context.store()
        handlers = Handlers(settings.handlers, settings.functions, context.http)
        resend = Resend(context.publisher, settings.events_topic)
        maintenance = Maintenance(
            settings.functions,
            Switches(store),
            Lazy(lambda: Subscriptions(settings.push.service_account)),
            context.http,
            IdentityTokens(),
        )
        monitoring = settings.console.monitoring_url
        queues = Queues(settings.project, settings.deployment, monitoring, context.http)
        lists = Lazy(lambda: Lists(context.portabilling()))

        def make_workers() -> Mapping[str, Worker]:
            return {
                "replay": Replay(store, handlers, resend),
                "reconcile": Reconcile(
                    store, handlers, lists(), Sending(settings.deployment, resend)
                ),
            }

        self.name = settings.function
        self.guard = PushGuard(settings.push, context.http)
        self.jobs = Jobs(store, context.publisher, settings.jobs_topic, Lazy(make_workers))
        self.redactor = context.redactor
        identity = Identity(settings.console, context.http)
        reader = Lazy(lambda: Reader(context.portabilling()))
        shown = settings.console.viewers_see_subscribers
        self.api = Api(
            ConsoleContext(
                store=store,
                handlers=handlers,
                identity=identity,
                jobs=self.jobs,
                finding=Finding(store, handlers, lists),
                health=Health(handlers, context.espf),
                turn=maintenance.bring,
                now=Now(handlers, reader, context.redactor),
                masking=Masking(context.redactor),
                queues=queues.read,
                sees_subscribers=Role.viewer if shown else Role.operator,
            )
        )
        key = FormKey(lambda: context.secrets.get(settings.digest_key).reveal().encode())
        self.site = Site(self.api, identity, settings.deployment, key)

    def work(self, push: PushMessage) -> Reply:
        job, number = push.attributes.get("job", ""), push.attributes.get("slice", "")
        if not job or not number.isdigit():
            raise MalformedMessage("the message names no job and slice")
        self.redactor()  # logs of work are joined with those of the other functions
        self.jobs.work(job, int(number))
        return acknowledged()


_function = Lazy(Function)


def main(request: flask.Request) -> flask.Response:
    """Pages and anything below /api: operators. POST /work: Pub/Sub. GET /health."""
    function = _function()
    path = request.path.rstrip("/")
    if path == "/health" and request.method == "GET":
        return healthy(function.name).to_flask()
    if path == "/work" and request.method == "POST":
        return receive(request, function.guard, function.work).to_flask()
    body = request.get_data(cache=False)
    query = request.args.to_dict()
    if path == "/api" or path.startswith("/api/"):
        answer = function.api.handle(request.method, path, request.headers, query, body)
        return answer.to_flask()
    return function.site.handle(request.method, path, request.headers, query, body).to_flask()
