"""The console's JSON API, below /api: who may do what, and how each answer reads.

Every answer is a JSON object. Errors are {"error": sentence}: 400 (not understood), 401 (who are
you), 403 (not in your role), 404, 405, 409 (not now), 503 (try again).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nsps.cloud.receiver import Reply
from nsps.console.api import events, handlers, jobs, overview, subscribers
from nsps.console.api.checks import BadRequest
from nsps.console.api.context import ConsoleContext, ConsoleRequest, HandlerRefuses, NotThere
from nsps.console.erase import NotYet
from nsps.console.handlers import UnknownHandler
from nsps.console.identity import NotAllowed, Person, Role
from nsps.console.jobs import JobConflict, UnknownJob
from nsps.console.parked import CannotSendNow, NotParked
from nsps.console.paths import name_in
from nsps.delivery.switch import SwitchRefused
from nsps.domain.outcome import Transient
from nsps.runtime import log

__all__ = ["Api", "ConsoleContext"]

_log = log.get(__name__)

MAX_BODY_BYTES = 100_000

Answering = Callable[[ConsoleContext, ConsoleRequest], dict[str, Any]]


class Api:
    """Answers requests; safe to share between threads."""

    def __init__(self, context: ConsoleContext) -> None:
        self._context = context

    def handle(
        self,
        method: str,
        path: str,
        headers: Any,
        query: Mapping[str, str],
        body: bytes,
    ) -> Reply:
        """Answer one request of a command. Never raises."""
        try:
            person = self._context.identity.who(headers)
            _not_from_a_form(method, headers)
        except NotAllowed as error:
            return Reply(error.status, {"error": str(error)})
        return self.answer(person, method, path, query, body)

    def answer(
        self, person: Person, method: str, path: str, query: Mapping[str, str], body: bytes = b""
    ) -> Reply:
        """Answer what a person asks, whether by a command or on a page. Never raises."""
        try:
            return Reply(200, self._answer(person, method, path, query, body))
        except NotAllowed as error:
            return Reply(error.status, {"error": str(error)})
        except BadRequest as error:
            return Reply(400, {"error": str(error)})
        except (NotThere, NotParked, UnknownHandler, UnknownJob) as error:
            return Reply(404, {"error": str(error)})
        except _MethodRefused as error:
            return Reply(405, {"error": str(error)}, {"Allow": error.allow})
        except (SwitchRefused, CannotSendNow, JobConflict, HandlerRefuses, NotYet) as error:
            return Reply(409, {"error": str(error)})
        except Transient as error:
            return Reply(503, {"error": str(error)}, {"Retry-After": "5"})
        except Exception as error:
            _log.error("an unexpected error", error=error)
            return Reply(500, {"error": "unexpected error; see the console's log"})

    def _answer(
        self, person: Person, method: str, path: str, query: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        route, name = _route(method, path)
        if person.role < route.role:
            raise NotAllowed(
                403, f"{person.email} is {person.role.name}: this needs {route.role.name}"
            )
        if route.interception and not person.interception:
            raise NotAllowed(403, f"{person.email} does not have the role interception")
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"the body is larger than {MAX_BODY_BYTES} bytes")
        with log.fields(by=person.email):
            return route.answer(self._context, ConsoleRequest(person, name, query, body))


def _not_from_a_form(method: str, headers: Any) -> None:
    """Another site's page can make a browser send a form, and the proxy adds who its reader is; it
    cannot make it send JSON. Raises NotAllowed."""
    kind = str(headers.get("content-type", "")).partition(";")[0].strip().lower()
    if method not in ("GET", "HEAD") and kind != "application/json":
        raise NotAllowed(415, "write the header Content-Type: application/json, and JSON")


class _MethodRefused(Exception):
    def __init__(self, allow: str) -> None:
        super().__init__(f"write {allow}")
        self.allow = allow


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: str
    role: Role
    answer: Answering
    interception: bool = False


ROUTES = (
    _Route("GET", "/api/me", Role.viewer, overview.me),
    _Route("GET", "/api/overview", Role.viewer, overview.overview),
    _Route("GET", "/api/events", Role.viewer, events.events),
    _Route("GET", "/api/parked", Role.viewer, jobs.parked),
    _Route("GET", "/api/events/{name}", Role.viewer, events.event),
    _Route("GET", "/api/events/{name}/details", Role.viewer, events.event_details),
    _Route("GET", "/api/search", Role.viewer, subscribers.search),
    _Route("GET", "/api/accounts/{name}", Role.viewer, subscribers.account),
    _Route("GET", "/api/customers/{name}", Role.viewer, subscribers.customer),
    _Route("GET", "/api/find", Role.viewer, subscribers.find),
    _Route("GET", "/api/handlers", Role.viewer, handlers.handlers),
    _Route("GET", "/api/handlers/{name}", Role.viewer, handlers.handler),
    _Route("GET", "/api/audit", Role.viewer, overview.audit),
    _Route("GET", "/api/jobs", Role.viewer, jobs.jobs),
    _Route("GET", "/api/jobs/{name}", Role.viewer, jobs.job),
    _Route("GET", "/api/health", Role.operator, overview.health),
    _Route("GET", "/api/handlers/{name}/health", Role.operator, handlers.handler_health),
    _Route("GET", "/api/accounts/{name}/now", Role.operator, subscribers.account_now),
    _Route("GET", "/api/customers/{name}/now", Role.operator, subscribers.customer_now),
    _Route("GET", "/api/handlers/{name}/settings", Role.operator, handlers.settings),
    _Route("POST", "/api/handlers/{name}/pause", Role.operator, handlers.pause),
    _Route("POST", "/api/handlers/{name}/resume", Role.operator, handlers.resume),
    _Route("POST", "/api/handlers/{name}/try", Role.operator, handlers.try_handler),
    _Route(
        "GET",
        "/api/handlers/{name}/confidential",
        Role.viewer,
        handlers.confidential,
        interception=True,
    ),
    _Route("GET", "/api/accounts/{name}/kept", Role.viewer, subscribers.kept),
    _Route("POST", "/api/accounts/{name}/erase", Role.admin, subscribers.erase),
    _Route("POST", "/api/parked/{name}/send", Role.operator, jobs.send_parked),
    _Route("POST", "/api/replays", Role.operator, jobs.replays),
    _Route("POST", "/api/reconciles", Role.operator, jobs.reconciles),
    _Route("POST", "/api/jobs/{name}/stop", Role.operator, jobs.stop_job),
    _Route("POST", "/api/jobs/{name}/resume", Role.operator, jobs.resume_job),
)


def _route(method: str, path: str) -> tuple[_Route, str]:
    there = [(route, name) for route in ROUTES if (name := name_in(path, route.path)) is not None]
    for route, name in there:
        if route.method == method:
            return route, name
    if there:
        raise _MethodRefused(", ".join(sorted({route.method for route, _ in there})))
    raise NotThere(f"there is no {path}: docs/console-api.md lists what there is")
