"""The ingress function: ESPF's webhooks come in here and go to the topic espf-events."""

from __future__ import annotations

import os
import secrets as random

# These two while the instance starts, not at its first webhook.
import google.cloud.secretmanager_v1.services.secret_manager_service
import google.pubsub_v1  # noqa: F401 (nor the other)
from nsps.cloud.messages import Publisher
from nsps.flows.ingress import Ingress, respond
from nsps.runtime import log
from nsps.runtime.lazy import Lazy
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import Secrets
from nsps.runtime.settings import IngressSettings
from werkzeug.wrappers import Request, Response


def _make() -> Ingress:
    settings = IngressSettings.from_env(os.environ)
    # No line of this function names a subscriber, so its hashes need not be joined with others'.
    redactor = Redactor(random.token_bytes(32))
    log.configure(project=settings.project, redactor=redactor)
    secrets = Secrets(settings.project, os.environ, on_read=redactor.register)
    return Ingress(settings, secrets, Publisher(), redactor)


_ingress = Lazy(_make)

if "NSPS_FUNCTION" in os.environ:  # a wrong environment fails the deployment, not the webhooks
    IngressSettings.from_env(os.environ)


def main(request: Request) -> Response:
    """Any path, POST: a webhook. GET /health."""
    return respond(request, _ingress)
