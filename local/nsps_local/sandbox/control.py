"""The sandbox's own side door, for scripts and for the page: change subscribers, make trouble, look
at everything.

Bodies are JSON with Content-Type application/json (anything else is refused, so that no web page
can post here by accident). A request that cannot be done answers 400 or 404 with {"error": "a
sentence"}.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request
from nsps.runtime.mistakes import sentences
from pydantic import ValidationError, validate_call

from nsps_local.sandbox.api import json_answer
from nsps_local.sandbox.domain import NotFound, Refused
from nsps_local.sandbox.faults import Fault
from nsps_local.sandbox.overview import Overview
from nsps_local.sandbox.runtime import SandboxRuntime
from nsps_local.sandbox.seed import seed_accounts

MAX_SEED = 1_000_000


class Control:
    def __init__(
        self, parts: SandboxRuntime, reconfigure: Callable[[dict[str, Any]], None]
    ) -> None:
        self._context = parts
        self._overview = Overview(parts)
        self._reconfigure = reconfigure
        self._operations = {
            name: validate_call(operation)
            for name, operation in inspect.getmembers(parts.billing, inspect.ismethod)
            if not name.startswith("_")
        }

    def blueprint(self) -> Blueprint:
        blueprint = Blueprint("sandbox", __name__, url_prefix="/sandbox")
        for path, view, method in (
            ("/state", self.state, "GET"),
            ("/events", self.events, "GET"),
            ("/events/<int:i_event>", self.event, "GET"),
            ("/events/<int:i_event>/resend", self.resend, "POST"),
            ("/statuses", self.statuses, "GET"),
            ("/calls", self.calls, "GET"),
            ("/calls", self.reset_calls, "DELETE"),
            ("/faults", self.faults, "GET"),
            ("/faults", self.add_fault, "POST"),
            ("/faults", self.clear_faults, "DELETE"),
            ("/faults/<kind>", self.clear_faults, "DELETE"),
            ("/do", self.list_operations, "GET"),
            ("/do/<operation>", self.do, "POST"),
            ("/settings", self.settings, "GET"),
            ("/settings", self.change_settings, "POST"),
            ("/seed", self.seed, "POST"),
            ("/groups/<name>", self.remove_group, "DELETE"),
        ):
            blueprint.add_url_rule(path, f"{method} {path}", answered(view), methods=[method])
        return blueprint

    # ---- looking

    def state(self) -> dict[str, Any]:
        """?limit=200&offset=0&search=: subscribers whose id, name or IMSI contains the text."""
        state = self._overview.state(
            _integer("limit", 200), _integer("offset", 0), _given("search")
        )
        state["faults"] = self._context.faults.shown()
        return state

    def events(self) -> dict[str, Any]:
        """?limit=200&after=0&state=: newest first."""
        events = self._context.queue.events(
            _integer("limit", 200), _integer("after", 0), _given("state")
        )
        return {"events": events, "counts": self._context.queue.counts()}

    def event(self, i_event: int) -> dict[str, Any]:
        event = self._context.queue.event(i_event)
        if event is None:
            raise NotFound(f"There is no event {i_event}.")
        return event

    def statuses(self) -> dict[str, Any]:
        """?i_account=&group=&limit=1000: every status told to PortaBilling, oldest first."""
        i_account = _integer("i_account", 0) or None
        return {
            "statuses": self._context.statuses.history(
                i_account, _given("group"), _integer("limit", 1000)
            )
        }

    def calls(self) -> dict[str, Any]:
        """?method=&limit=1000: the latest API calls, oldest first; counts since the reset."""
        calls = self._context.calls.shown(_given("method"), _integer("limit", 1000))
        return {"calls": calls, "counts": self._context.calls.counts()}

    def faults(self) -> dict[str, Any]:
        return {"faults": self._context.faults.shown()}

    def settings(self) -> dict[str, Any]:
        """The configuration in force, secrets masked."""
        shown: dict[str, Any] = json.loads(self._context.config.model_dump_json())
        return shown

    def list_operations(self) -> dict[str, Any]:
        """The operations and their parameters: {"block_account": {"i_account": "int"}}."""
        return {
            name: {
                parameter.name: str(parameter).replace("'", "").partition(": ")[2]
                for parameter in inspect.signature(operation).parameters.values()
            }
            for name, operation in self._operations.items()
        }

    # ---- doing

    def do(self, operation: str) -> dict[str, Any]:
        """One operation of the domain; "account" (id or number) may stand for i_account."""
        if operation not in self._operations:
            raise NotFound(
                f"There is no operation {operation}; there are: {', '.join(self._operations)}."
            )
        result: dict[str, Any] = self._operations[operation](**self._resolved(_body()))
        return result

    def _resolved(self, arguments: dict[str, Any]) -> dict[str, Any]:
        account = arguments.pop("account", None)
        if account is not None:
            i_account = self._context.store.value(
                "SELECT i_account FROM accounts WHERE id IN (?, ? || '@msisdn')", account, account
            )
            if i_account is None:
                raise NotFound("There is no such account.")
            arguments["i_account"] = i_account
        return arguments

    def add_fault(self) -> dict[str, Any]:
        fault = Fault.model_validate(_body())
        if fault.fault == "kill_tokens":
            killed = self._context.sessions.kill_all(fault.faultcode, fault.refresh_tokens)
            return {"killed": killed, **self.faults()}
        if fault.fault == "token_dies_after":
            self._context.sessions.die_after(fault.calls)
        if fault.fault == "standalone_mode":
            self._context.sessions.kill_all()  # the other site does not know this one's sessions
        self._context.faults.add(fault)
        return self.faults()

    def clear_faults(self, kind: str | None = None) -> dict[str, Any]:
        if kind in {None, "token_dies_after"}:
            self._context.sessions.die_after(None)
        self._context.faults.clear(kind)
        return self.faults()

    def reset_calls(self) -> dict[str, Any]:
        self._context.calls.reset()
        return {"counts": {}}

    def resend(self, i_event: int) -> dict[str, Any]:
        if not self._context.queue.resend(i_event):
            raise NotFound(f"There is no event {i_event}.")
        return self.event(i_event)

    def change_settings(self) -> dict[str, Any]:
        """Any part of the sections webhook, events and api, and admin; the rest stays as it is."""
        self._reconfigure(_body())
        return self.settings()

    def remove_group(self, name: str) -> dict[str, Any]:
        """An ESPF group that nobody has registered, from now on: its statuses are refused."""
        self._context.statuses.remove_group(name)
        return {"groups": [each["name"] for each in self._context.statuses.groups()]}

    def seed(self) -> dict[str, Any]:
        """{"accounts": n}: so many more subscribers, each with a card; no events."""
        n_accounts = _body().get("accounts")
        if not isinstance(n_accounts, int) or not 0 < n_accounts <= MAX_SEED:
            raise Refused(f'Give {{"accounts": n}} with n from 1 to {MAX_SEED}.')
        return seed_accounts(self._context.store, n_accounts)


def answered(view: Callable[..., dict[str, Any]]) -> Callable[..., Response]:
    """The view's dict as JSON; what it refuses as an error with a sentence."""

    def respond(**arguments: Any) -> Response:
        try:
            return json_answer(view(**arguments))
        except NotFound as error:
            return json_answer({"error": str(error)}, status=404)
        except ValidationError as error:
            return json_answer({"error": sentences(error)}, status=400)
        except Refused as error:
            return json_answer({"error": str(error)}, status=400)

    return respond


def _body() -> dict[str, Any]:
    if not request.is_json:
        raise Refused("Send a JSON body with Content-Type: application/json.")
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise Refused("The body must be a JSON object.")
    return body


def _given(name: str) -> str | None:
    return request.args.get(name) or None


def _integer(name: str, default: int) -> int:
    text = request.args.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused(f"{name} must be a whole number.")
    return int(text)
