"""Callbacks: late answers of asynchronous systems, at POST or GET /<handler>/..."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import google.pubsub_v1  # noqa: F401 (while the instance starts, not at its first message)
from nsps.cloud.receiver import Reply, healthy
from nsps.connector.base import CallbackRequest
from nsps.connector.load import late_connectors
from nsps.delivery.instance import InstanceContext
from nsps.delivery.resend import Resend
from nsps.flows.callbacks import Answers, Callbacks
from nsps.runtime.lazy import Lazy
from nsps.runtime.settings import CallbacksSettings

if TYPE_CHECKING:
    import flask


_FUNCTIONS = Path(__file__).resolve().parents[1]
"""Where the connectors are, in the repository as in the archive."""


class Function:
    """One instance of the function."""

    def __init__(self) -> None:
        settings = CallbacksSettings.from_env(os.environ)
        context = InstanceContext(settings, settings.portabilling)
        self.name = settings.function
        connectors = late_connectors(_FUNCTIONS, settings.handlers, context)
        answers = Answers(
            context.store(),
            context.poster(),
            Resend(context.publisher, settings.events_topic),
            context.redactor,
        )
        self.callbacks = Callbacks(connectors, answers)


_function = Lazy(Function)


def main(request: flask.Request) -> flask.Response:
    """POST or GET /<handler>/...: a notification of that handler's system. GET /health."""
    function = _function()
    if request.method == "GET" and request.path == "/health":
        return healthy(function.name).to_flask()
    handler, _, rest = request.path.lstrip("/").partition("/")
    if request.method not in ("POST", "PUT", "GET"):
        error = {"error": "send the notification with POST"}
        return Reply(405, error, {"Allow": "POST, PUT, GET"}).to_flask()
    came = CallbackRequest(
        method=request.method,
        path=f"/{rest}",
        headers=dict(request.headers),
        body=request.get_data(cache=False),
        query=request.args.to_dict(),
    )
    return function.callbacks.handle(handler, came).to_flask()
