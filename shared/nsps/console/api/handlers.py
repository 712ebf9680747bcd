"""The handlers: how they are, pause and resume, a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from nsps.cloud import audit
from nsps.cloud.store import Store
from nsps.console.api.checks import body_of
from nsps.console.api.common import note_look_up, sees
from nsps.console.api.context import ConsoleContext, ConsoleRequest, HandlerRefuses
from nsps.console.requests import ReasonBody, TryBody
from nsps.delivery import switch
from nsps.delivery.switch import Switch, kept_until
from nsps.delivery.timeline import plain
from nsps.domain.event import Owner
from nsps.domain.outcome import Terminal
from nsps.runtime.settings import PORTABILLING


def handlers(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    switches, now = context.switches.read_all(context.handlers.by_name)
    portabilling: dict[str, Any] = plain(context.switches.read(PORTABILLING).write())
    if not sees(context, request):
        portabilling = context.masking.switch(portabilling)
    found = [_handler(context, name, switches[name], now) for name in sorted(switches)]
    return {
        "handlers": [_handler_masked(context, request, each) for each in found],
        "portabilling": portabilling,
    }


def _handler_masked(
    context: ConsoleContext, request: ConsoleRequest, handler: dict[str, Any]
) -> dict[str, Any]:
    return handler if sees(context, request) else context.masking.handler(handler)


def handler(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    name = context.handlers.get(request.name).name
    switches, now = context.switches.read_all([name])
    return _handler_masked(context, request, _handler(context, name, switches[name], now))


def _handler(context: ConsoleContext, name: str, state: Switch, now: datetime) -> dict[str, Any]:
    handler = context.handlers.get(name)
    return {
        "name": name,
        "connector": handler.connector,
        "kind": handler.kind,
        "events": list(handler.events),
        "requires": list(handler.requires),
        "group": handler.group,
        "retries": handler.retries.model_dump(mode="json"),
        "max_rate": handler.max_rate,
        "answer_within_hours": handler.answer_within_hours,
        "quality": handler.quality,
        "switch": plain(state.write()),
        "off": state.off,
        "why": state.why(),
        "kept_until": plain(kept_until(state)),
        "warning": switch.warning(name, state, now),
    }


def handler_health(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """How one handler's system is, asked at this moment."""
    return context.health.of(context.handlers.get(request.name).name)


def pause(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return _turn(context, request, switch.pause)


def resume(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return _turn(context, request, switch.resume)


def _turn(
    context: ConsoleContext,
    request: ConsoleRequest,
    how: Callable[[Store, str, str, str, str], Switch],
) -> dict[str, Any]:
    name, body = context.handlers.get(request.name).name, body_of(request, ReasonBody)
    person = request.person
    how(context.store, name, person.email, body.reason, person.role.name)
    context.turn(name)
    return handler(context, request)


def try_handler(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """The requests that a handler would make for an account, or makes."""
    name, body = context.handlers.get(request.name).name, body_of(request, TryBody)
    person, owner = request.person, str(Owner("account", str(body.account)))
    if body.send:
        audit.note_alone(
            context.store, person.email, person.role.name, "try", name,
            body.reason, {"owner": owner},
        )  # fmt: skip
    else:
        note_look_up(context, request, owner, by=f"trying {name}")
    return _ask(context, name, "/try", {"owner": owner, "send": body.send})


def settings(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """A handler's settings as its function has them; of secrets the names."""
    return _ask(context, context.handlers.get(request.name).name, "/settings", {})


def confidential(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """What a handler shows to the role interception alone; noted before it is shown."""
    name, who = context.handlers.get(request.name).name, request.person.email
    audit.note_alone(context.store, who, "interception", "look at confidential", name)
    return _ask(context, name, "/confidential", {})


def _ask(context: ConsoleContext, name: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return context.handlers.ask(name, path, body)
    except Terminal as error:
        raise HandlerRefuses(str(error)) from None
