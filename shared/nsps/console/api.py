"""The console's JSON API, below /api: who may do what, and how each answer reads.

Every answer is a JSON object. Errors are {"error": sentence}: 400 (not understood), 401 (who are
you), 403 (not in your role), 404, 405, 409 (not now), 503 (try again).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.cloud.firestore import Query
from pydantic import BaseModel, ValidationError

from nsps.cloud.messages import ENRICHMENT
from nsps.cloud.receiver import Reply
from nsps.cloud.store import Store
from nsps.console import erase, words
from nsps.console.find import EVENTS, Finding, Subject
from nsps.console.handlers import Handlers, UnknownHandler
from nsps.console.health import Health
from nsps.console.identity import Identity, NotAllowed, Person, Role
from nsps.console.jobs import JobConflict, Jobs, UnknownJob
from nsps.console.requests import EraseBody, ReasonBody, ReconcileBody, ReplayBody
from nsps.delivery import switch
from nsps.delivery.switch import Switch, Switches, SwitchRefused, kept_until
from nsps.delivery.timeline import as_json, plain
from nsps.domain.event import Owner
from nsps.domain.outcome import Outcome, Transient
from nsps.domain.subscriber import as_msisdn
from nsps.runtime import log
from nsps.runtime.settings import PORTABILLING

_log = log.get(__name__)

M = TypeVar("M", bound=BaseModel)
MAX_LIMIT = 1000
MAX_BODY_BYTES = 100_000
_NO_EVENT = "no event {} in the history (kept for 3 months): `nsps events` lists the newest"
_OUTCOMES = ", ".join(each.value for each in Outcome)


class BadRequest(Exception):
    """What was asked cannot be understood; the message says what to write."""


class NotThere(Exception):
    """What was asked for is not there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``name``: the part of the path that names something."""

    person: Person
    name: str
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ConsoleParts:
    """What the API answers from."""

    store: Store
    handlers: Handlers
    identity: Identity
    jobs: Jobs
    finding: Finding
    health: Health
    turn: Callable[[str], None]
    """Brings a handler's subscription to its switch at once."""
    switches: Switches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "switches", Switches(self.store))


Answering = Callable[["Api", Asked], dict[str, Any]]


class Api:
    """Answers requests; safe to share between threads."""

    def __init__(self, parts: ConsoleParts) -> None:
        self._parts = parts

    def handle(
        self,
        method: str,
        path: str,
        headers: Any,
        query: Mapping[str, str],
        body: bytes,
    ) -> Reply:
        """Answer one request. Never raises."""
        try:
            return Reply(200, self._answer(method, path, headers, query, body))
        except NotAllowed as error:
            return Reply(error.status, {"error": str(error)})
        except BadRequest as error:
            return Reply(400, {"error": str(error)})
        except (NotThere, UnknownHandler, UnknownJob) as error:
            return Reply(404, {"error": str(error)})
        except _MethodRefused as error:
            return Reply(405, {"error": str(error)}, {"Allow": error.allow})
        except (SwitchRefused, JobConflict, erase.NotYet) as error:
            return Reply(409, {"error": str(error)})
        except Transient as error:
            return Reply(503, {"error": str(error)}, {"Retry-After": "5"})
        except Exception as error:
            _log.error("an unexpected error", error=error)
            return Reply(500, {"error": "unexpected error; see the console's log"})

    def _answer(
        self, method: str, path: str, headers: Any, query: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        person = self._parts.identity.who(headers)
        route, name = _route(method, path)
        if person.role < route.role:
            raise NotAllowed(
                403, f"{person.email} is {person.role.name}: this needs {route.role.name}"
            )
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"the body is larger than {MAX_BODY_BYTES} bytes")
        with log.fields(by=person.email):
            return route.answer(self, Asked(person, name, query, body))

    # ---- reading -------------------------------------------------------------------------------

    def me(self, asked: Asked) -> dict[str, Any]:
        return {"email": asked.person.email, "role": asked.person.role.name}

    def events(self, asked: Asked) -> dict[str, Any]:
        limit = _limit(asked.query, EVENTS)
        timeline = self._parts.finding.timeline
        account = asked.query.get("account")
        if "outcome" in asked.query or "handler" in asked.query:
            return self._searched(asked, limit)
        if account is not None:
            found = timeline.where("i_account", _number("account", account), limit)
        elif "i_event" in asked.query:
            found = timeline.where("i_event", asked.query["i_event"], limit)
        else:
            found = timeline.latest(limit)
        return {"events": [as_json(story) for story in found]}

    def _searched(self, asked: Asked, limit: int) -> dict[str, Any]:
        """The newest events by what became of them."""
        handler = asked.query.get("handler")
        if handler is not None:
            self._parts.handlers.get(handler)
        every = {each.value for each in Outcome}
        named = asked.query.get("outcome")
        outcomes = frozenset(named.split(",") if named else every)
        unknown = sorted(outcomes - every)
        if unknown:
            raise BadRequest(f"outcome: {unknown[0]!r} is none: write {_OUTCOMES}")
        found, looked = self._parts.finding.timeline.search(limit, handler, outcomes)
        return {"events": [as_json(story) for story in found], "looked_through": looked}

    def parked(self, asked: Asked) -> dict[str, Any]:
        handler = asked.query.get("handler")
        if handler not in (None, ENRICHMENT):
            self._parts.handlers.get(handler)
        stages = [ENRICHMENT, *sorted(self._parts.handlers.by_name)] if not handler else [handler]
        limit = _limit(asked.query, EVENTS)
        return {"parked": self._parts.finding.parked(stages, limit)}

    def event(self, asked: Asked) -> dict[str, Any]:
        stories = self._parts.finding.timeline.find(asked.name)
        if not stories:
            raise NotThere(_NO_EVENT.format(asked.name))
        systems = self._systems()
        return {
            "events": [as_json(story) for story in stories],
            "words": [words.of_story(story, systems).to_json() for story in stories],
        }

    def account(self, asked: Asked) -> dict[str, Any]:
        return self._owner(asked, "account")

    def customer(self, asked: Asked) -> dict[str, Any]:
        return self._owner(asked, "customer")

    def _owner(self, asked: Asked, kind: str) -> dict[str, Any]:
        owner = Owner(kind, str(_number(kind, asked.name)))
        return self._subject(
            self._parts.finding.owner(owner, limit=_limit(asked.query, EVENTS)), self._systems()
        )

    def find(self, asked: Asked) -> dict[str, Any]:
        given = [(kind, asked.query[kind]) for kind in ("imsi", "msisdn") if asked.query.get(kind)]
        if len(given) != 1:
            raise BadRequest("write ?imsi=NUMBER or ?msisdn=NUMBER")
        ((kind, number),) = given
        if kind == "msisdn":
            number = as_msisdn(number) or ""
            if not number:
                raise BadRequest("the MSISDN is not 1 to 15 digits: write ?msisdn=NUMBER")
        number = number.strip()
        subjects = self._parts.finding.number(kind, number)
        if not subjects:
            raise NotThere(
                f"no system that NSPS writes to has {kind.upper()} {number}, and none had it in "
                "the last months: look in PortaBilling which account it belongs to, then ask for "
                "account:N"
            )
        systems = self._systems()
        return {"found": [self._subject(each, systems) for each in subjects]}

    def _subject(self, subject: Subject, systems: words.Systems) -> dict[str, Any]:
        return {
            "owner": str(subject.owner) if subject.owner else None,
            "note": subject.note,
            "resources": [dict(each) for each in subject.resources],
            "statuses": [dict(each) for each in subject.statuses],
            "events": [as_json(story) for story in subject.events],
            "words": words.of_subject(subject, systems).to_json(),
        }

    def handlers(self, asked: Asked) -> dict[str, Any]:
        switches, now = self._parts.switches.read_all(self._parts.handlers.by_name)
        portabilling = self._parts.switches.read(PORTABILLING)
        return {
            "handlers": [self._handler(name, switches[name], now) for name in sorted(switches)],
            "portabilling": plain(portabilling.write()),
        }

    def handler(self, asked: Asked) -> dict[str, Any]:
        name = self._parts.handlers.get(asked.name).name
        switches, now = self._parts.switches.read_all([name])
        return self._handler(name, switches[name], now)

    def _handler(self, name: str, state: Switch, now: datetime) -> dict[str, Any]:
        handler = self._parts.handlers.get(name)
        return {
            "name": name,
            "connector": handler.connector,
            "kind": handler.kind,
            "events": list(handler.events),
            "requires": list(handler.requires),
            "group": handler.group,
            "retries": handler.retries.model_dump(mode="json"),
            "switch": plain(state.write()),
            "off": state.off,
            "why": state.why(),
            "kept_until": plain(kept_until(state)),
            "warning": switch.warning(name, state, now),
        }

    def health(self, asked: Asked) -> dict[str, Any]:
        return self._parts.health.look()

    def audit(self, asked: Asked) -> dict[str, Any]:
        query = self._parts.store.client.collection("audit").order_by(
            "at", direction=Query.DESCENDING
        )
        found = self._parts.store.find(query.limit(_limit(asked.query, 50)))
        now = datetime.now(UTC)
        kept = [each for each in found if each["expire_at"] > now]
        return {"entries": [plain(_without(each, "expire_at")) for each in kept]}

    def jobs(self, asked: Asked) -> dict[str, Any]:
        found = self._parts.jobs.latest(_limit(asked.query, 20))
        return {"jobs": [plain(_without(job, "expire_at")) for job in found]}

    def job(self, asked: Asked) -> dict[str, Any]:
        job = self._parts.jobs.get(asked.name)
        limit, after = _limit(asked.query, 100), asked.query.get("after", "")
        findings = self._parts.jobs.findings(asked.name, limit, after)
        shown = [plain(_without(each, "expire_at")) for each in findings]
        return {**plain(_without(job, "expire_at")), "findings": shown}

    def _systems(self) -> words.Systems:
        handlers = self._parts.handlers.by_name
        return words.Systems(self._parts.switches.read_all(handlers)[0], handlers)

    # ---- changing ------------------------------------------------------------------------------

    def pause(self, asked: Asked) -> dict[str, Any]:
        name, body = self._parts.handlers.get(asked.name).name, _body(asked, ReasonBody)
        person = asked.person
        switch.pause(self._parts.store, name, person.email, body.reason, person.role.name)
        self._parts.turn(name)
        return self.handler(asked)

    def resume(self, asked: Asked) -> dict[str, Any]:
        name, body = self._parts.handlers.get(asked.name).name, _body(asked, ReasonBody)
        person = asked.person
        switch.resume(self._parts.store, name, person.email, body.reason, person.role.name)
        self._parts.turn(name)
        return self.handler(asked)

    def replays(self, asked: Asked) -> dict[str, Any]:
        body = _body(asked, ReplayBody)
        if body.handler is not None:
            self._parts.handlers.get(body.handler)
        if body.event is not None and not self._parts.finding.timeline.find(body.event):
            raise NotThere(_NO_EVENT.format(body.event))
        ident = self._parts.jobs.start(
            "replay",
            body.spec(),
            asked.person,
            dry_run=body.dry_run,
            rate=body.rate,
            reason=body.reason,
        )
        return {"job": ident}

    def reconciles(self, asked: Asked) -> dict[str, Any]:
        body = _body(asked, ReconcileBody)
        if self._parts.handlers.get(body.handler).kind == "message":
            raise JobConflict(
                f"{body.handler} sends messages and keeps no state: there is nothing to compare; "
                "replay its events instead"
            )
        ident = self._parts.jobs.start(
            "reconcile", body.spec(), asked.person, fix=body.fix, rate=body.rate, reason=body.reason
        )
        return {"job": ident}

    def kept(self, asked: Asked) -> dict[str, Any]:
        i_account, held = _number("account", asked.name), asked.query.get("held") == "true"
        return _kept(erase.find(self._parts.store, i_account, held=held))

    def erase(self, asked: Asked) -> dict[str, Any]:
        i_account, body = _number("account", asked.name), _body(asked, EraseBody)
        found = erase.find(self._parts.store, i_account, held=body.held)
        count = erase.erase(self._parts.store, i_account, found, asked.person, body.reason)
        return {**_kept(found), "deleted": count}

    def stop_job(self, asked: Asked) -> dict[str, Any]:
        self._parts.jobs.stop(asked.name, asked.person, _body(asked, ReasonBody).reason)
        return plain_job(self._parts.jobs.get(asked.name))

    def resume_job(self, asked: Asked) -> dict[str, Any]:
        self._parts.jobs.resume(asked.name, asked.person, _body(asked, ReasonBody).reason)
        return plain_job(self._parts.jobs.get(asked.name))


def _kept(found: erase.Found) -> dict[str, Any]:
    return {"kept": found.kinds, "against": list(found.against)}


def plain_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job as JSON."""
    shown: dict[str, Any] = plain(_without(job, "expire_at"))
    return shown


# ---- routes ------------------------------------------------------------------------------------


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

    def match(self, path: str) -> str | None:
        """The name in the path, empty where it has none; None if it is another path."""
        pattern = re.escape(self.path).replace(r"\{name\}", "([^/]+)")
        found = re.fullmatch(pattern, path)
        if found is None:
            return None
        return found[1] if found.groups() else ""


ROUTES = (
    _Route("GET", "/api/me", Role.viewer, Api.me),
    _Route("GET", "/api/events", Role.viewer, Api.events),
    _Route("GET", "/api/parked", Role.viewer, Api.parked),
    _Route("GET", "/api/events/{name}", Role.viewer, Api.event),
    _Route("GET", "/api/accounts/{name}", Role.viewer, Api.account),
    _Route("GET", "/api/customers/{name}", Role.viewer, Api.customer),
    _Route("GET", "/api/find", Role.viewer, Api.find),
    _Route("GET", "/api/handlers", Role.viewer, Api.handlers),
    _Route("GET", "/api/handlers/{name}", Role.viewer, Api.handler),
    _Route("GET", "/api/audit", Role.viewer, Api.audit),
    _Route("GET", "/api/jobs", Role.viewer, Api.jobs),
    _Route("GET", "/api/jobs/{name}", Role.viewer, Api.job),
    _Route("GET", "/api/health", Role.operator, Api.health),
    _Route("POST", "/api/handlers/{name}/pause", Role.operator, Api.pause),
    _Route("POST", "/api/handlers/{name}/resume", Role.operator, Api.resume),
    _Route("GET", "/api/accounts/{name}/kept", Role.viewer, Api.kept),
    _Route("POST", "/api/accounts/{name}/erase", Role.admin, Api.erase),
    _Route("POST", "/api/replays", Role.operator, Api.replays),
    _Route("POST", "/api/reconciles", Role.operator, Api.reconciles),
    _Route("POST", "/api/jobs/{name}/stop", Role.operator, Api.stop_job),
    _Route("POST", "/api/jobs/{name}/resume", Role.operator, Api.resume_job),
)


def _route(method: str, path: str) -> tuple[_Route, str]:
    there = [(route, name) for route in ROUTES if (name := route.match(path)) is not None]
    for route, name in there:
        if route.method == method:
            return route, name
    if there:
        raise _MethodRefused(", ".join(sorted({route.method for route, _ in there})))
    raise NotThere(f"there is no {path}: docs/console-api.md lists what there is")


# ---- what was written --------------------------------------------------------------------------


def _body(asked: Asked, model: type[M]) -> M:
    try:
        document = json.loads(asked.body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON: write an object") from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        mistakes = []
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            where = ".".join(str(part) for part in each["loc"])
            what = each["msg"].removeprefix("Value error, ")
            mistakes.append(f"{where}: {what}" if where else what)
        raise BadRequest("; ".join(mistakes)) from None


def _limit(query: Mapping[str, str], usual: int) -> int:
    limit = _number("limit", query.get("limit", str(usual)))
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"limit: write a number from 1 to {MAX_LIMIT}")
    return limit


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"{name}: {text!r} is not a number")
    return int(text)


def _without(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}
