"""The console's JSON API, below /api: who may do what, and how each answer reads.

Every answer is a JSON object. Errors are {"error": sentence}: 400 (not understood), 401 (who are
you), 403 (not in your role), 404, 405, 409 (not now), 503 (try again).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.cloud.firestore import FieldFilter, Query
from pydantic import BaseModel, ValidationError

from nsps.cloud import audit
from nsps.cloud.messages import ENRICHMENT
from nsps.cloud.queues import Queue
from nsps.cloud.receiver import Reply
from nsps.cloud.store import Store
from nsps.console import erase
from nsps.console.ended import Ended
from nsps.console.event_json import event_json
from nsps.console.explanation import Systems, explain_event, explain_subject
from nsps.console.find import EVENTS, Finding, Subject, kind_of
from nsps.console.handlers import Handlers, UnknownHandler
from nsps.console.health import Health
from nsps.console.identity import Identity, NotAllowed, Person, Role
from nsps.console.jobs import JobConflict, Jobs, UnknownJob
from nsps.console.masking import Masking, hidden
from nsps.console.now import Now
from nsps.console.overview import Overview
from nsps.console.parked import CannotSendNow, NotParked, Parked
from nsps.console.paths import name_in
from nsps.console.requests import (
    MAX_LIMIT,
    AuditQuery,
    EraseBody,
    EventsQuery,
    ReasonBody,
    ReconcileBody,
    ReplayBody,
    TryBody,
)
from nsps.delivery import switch
from nsps.delivery.history import unpacked
from nsps.delivery.switch import Switch, Switches, SwitchRefused, kept_until
from nsps.delivery.timeline import EventHistory, Page, Wanted, plain
from nsps.domain.event import Owner
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.subscriber import as_msisdn
from nsps.runtime import log
from nsps.runtime.mistakes import sentences
from nsps.runtime.settings import PORTABILLING

_log = log.get(__name__)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
MAX_BODY_BYTES = 100_000
_NO_EVENT = "no event {} in the history (kept for 3 months): `nsps events` lists the newest"
RELATED = 5
"""Events of the owner that are shown before and after one."""
AUDIT_PAGE = 200
LOOK_UP = "look up"


class BadRequest(Exception):
    """What was asked cannot be understood; the message says what to write."""


class HandlerRefuses(Exception):
    """A handler's function refuses what is asked of it; the message says why."""


class NotThere(Exception):
    """What was asked for is not there."""


@dataclass(frozen=True, slots=True)
class ConsoleRequest:
    """One request. ``name``: the part of the path that names something."""

    person: Person
    name: str
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ConsoleContext:
    """What the API answers from."""

    store: Store
    handlers: Handlers
    identity: Identity
    jobs: Jobs
    finding: Finding
    health: Health
    turn: Callable[[str], None]
    """Brings a handler's subscription to its switch at once."""
    now: Now
    masking: Masking
    queues: Callable[[], Mapping[str, Queue]]
    sees_subscribers: Role = Role.operator
    """From this role on numbers and names are shown as they are."""
    parked: Parked = field(init=False)
    switches: Switches = field(init=False)
    overview: Overview = field(init=False)

    def __post_init__(self) -> None:
        switches = Switches(self.store)
        object.__setattr__(self, "parked", Parked(self.store))
        object.__setattr__(self, "switches", switches)
        overview = Overview(self.store, self.handlers, switches, self.jobs.failed, self.queues)
        object.__setattr__(self, "overview", overview)


Answering = Callable[["Api", ConsoleRequest], dict[str, Any]]


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
        except (SwitchRefused, CannotSendNow, JobConflict, HandlerRefuses, erase.NotYet) as error:
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
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"the body is larger than {MAX_BODY_BYTES} bytes")
        with log.fields(by=person.email):
            return route.answer(self, ConsoleRequest(person, name, query, body))

    # ---- reading -------------------------------------------------------------------------------

    def me(self, request: ConsoleRequest) -> dict[str, Any]:
        return {"email": request.person.email, "role": request.person.role.name}

    def overview(self, request: ConsoleRequest) -> dict[str, Any]:
        found = self._context.overview.read()
        return found if self._sees(request) else self._context.masking.overview(found)

    def events(self, request: ConsoleRequest) -> dict[str, Any]:
        timeline = self._context.finding.timeline
        query = _checked(EventsQuery, request.query)
        if query.plain_list and query.account is not None:
            found = timeline.where("i_account", query.account, query.limit)
        elif query.i_event is not None:
            found = timeline.where("i_event", query.i_event, query.limit)
        else:
            return self._page(request, query)
        return {"events": self._histories(request, found)}

    def _page(self, request: ConsoleRequest, query: EventsQuery) -> dict[str, Any]:
        """The newest events that were asked for, and where the next page begins."""
        if query.handler is not None:
            self._context.handlers.get(query.handler)
        wanted = Wanted(
            query.account,
            query.since,
            query.until,
            query.event_type,
            query.handler,
            frozenset(query.outcome) if query.outcome else None,
        )
        by_index = Ended.finds(wanted)
        page = _of_cursor(lambda: self._found(wanted, query, by_index=by_index))
        found = {"events": self._histories(request, page.histories), "next": page.next}
        complete = wanted.everything or by_index
        return found | ({} if complete else {"looked_through": page.looked_through})

    def _found(self, wanted: Wanted, query: EventsQuery, *, by_index: bool) -> Page:
        timeline = self._context.finding.timeline
        if not by_index:
            return timeline.page(wanted, query.limit, query.after)
        names = [query.handler] if query.handler else sorted(self._context.handlers.by_name)
        return Ended(self._context.store, timeline).page(wanted, names, query.limit, query.after)

    def _histories(
        self, request: ConsoleRequest, histories: Iterable[EventHistory]
    ) -> list[dict[str, Any]]:
        return [event_json(self._shown(request, event_history)) for event_history in histories]

    def _shown(self, request: ConsoleRequest, event_history: EventHistory) -> EventHistory:
        return (
            event_history
            if self._sees(request)
            else self._context.masking.event_history(event_history)
        )

    def _sees(self, request: ConsoleRequest) -> bool:
        """Whether subscribers' numbers and names are shown to who asks."""
        return request.person.role >= self._context.sees_subscribers

    def parked(self, request: ConsoleRequest) -> dict[str, Any]:
        stage = request.query.get("handler") or None
        if stage not in (None, ENRICHMENT):
            self._context.handlers.get(stage)
        limit, after = _limit(request.query, EVENTS), request.query.get("after", "")
        page = _of_cursor(lambda: self._context.parked.page(stage, limit, after))
        events = page.events
        if not self._sees(request):
            events = [{**each, "reason": hidden(each["reason"])} for each in events]
        return {"parked": events, "next": page.next}

    def send_parked(self, request: ConsoleRequest) -> dict[str, Any]:
        """What is parked is sent within a minute instead of at its next try."""
        reason = _body(request, ReasonBody).reason
        self._context.parked.send_now(request.name, request.person, reason)
        return {"name": request.name}

    def event(self, request: ConsoleRequest) -> dict[str, Any]:
        histories = [self._shown(request, event_history) for event_history in self._named(request)]
        systems = self._systems()
        return {
            "events": [event_json(event_history) for event_history in histories],
            "explanations": [
                explain_event(event_history, systems).to_json() for event_history in histories
            ],
        }

    def event_details(self, request: ConsoleRequest) -> dict[str, Any]:
        """What was read from PortaBilling for an event, and the owner's events around it."""
        event_history = self._named(request)[-1]
        snapshot = unpacked(event_history.snapshot)
        if snapshot is not None and not self._sees(request):
            snapshot = self._context.masking.document(snapshot)
        around = self._context.finding.timeline.around(event_history, RELATED)
        return {"snapshot": snapshot, "related": self._histories(request, around)}

    def _named(self, request: ConsoleRequest) -> list[EventHistory]:
        histories = self._context.finding.timeline.find(request.name)
        if not histories:
            raise NotThere(_NO_EVENT.format(request.name))
        return histories

    def account(self, request: ConsoleRequest) -> dict[str, Any]:
        return self._owner(request, "account")

    def customer(self, request: ConsoleRequest) -> dict[str, Any]:
        return self._owner(request, "customer")

    def _owner(self, request: ConsoleRequest, kind: str) -> dict[str, Any]:
        owner = Owner(kind, str(_number(kind, request.name)))
        self._looked_up(request, str(owner))
        subject = self._context.finding.owner(owner, limit=_limit(request.query, EVENTS))
        return self._subject(request, subject, self._systems())

    def find(self, request: ConsoleRequest) -> dict[str, Any]:
        kinds = ("imsi", "msisdn", "iccid")
        given = [(kind, request.query[kind]) for kind in kinds if request.query.get(kind)]
        if len(given) != 1:
            raise BadRequest("write ?imsi=NUMBER, ?msisdn=NUMBER or ?iccid=NUMBER")
        ((kind, number),) = given
        if kind == "msisdn":
            number = as_msisdn(number) or ""
            if not number:
                raise BadRequest("the MSISDN is not 1 to 15 digits: write ?msisdn=NUMBER")
        number = number.strip()
        subjects = self._of_number(request, kind, number)
        if not subjects:
            raise NotThere(
                f"no system that NSPS writes to has {kind.upper()} {number}, and none had it in "
                "the last months: look in PortaBilling which account it belongs to, then ask for "
                "account:N"
            )
        systems = self._systems()
        return {"found": [self._subject(request, each, systems) for each in subjects]}

    def _of_number(self, request: ConsoleRequest, kind: str, number: str) -> list[Subject]:
        subjects = self._context.finding.number(kind, number)
        owners = [str(each.owner) for each in subjects if each.owner] or [f"an unknown {kind}"]
        for owner in owners:
            self._looked_up(request, owner, by=kind)
        return subjects

    def search(self, request: ConsoleRequest) -> dict[str, Any]:
        """Whatever a person may have at hand: an account, a customer, a number, an event."""
        text = request.query.get("q", "").strip()
        kind, number = kind_of(text)
        if not number or len(number) > 200:
            raise BadRequest(
                "q: write account:N, customer:N, an MSISDN, IMSI or ICCID, or an event's number"
            )
        systems, finding = self._systems(), self._context.finding
        if kind in ("account", "customer"):
            owners = [Owner(kind, str(_number(kind, number)))]
        else:
            owners = finding.numbered(number) if kind != "event" else []
        for owner in owners:
            self._looked_up(request, str(owner))
        subjects = [finding.owner(owner) for owner in owners]
        if kind in ("imsi", "msisdn", "iccid"):
            subjects += self._of_number(request, kind, number)
        named = kind not in ("account", "customer", "imsi", "iccid")
        events = finding.timeline.find(number) if named else []
        return {
            "found": [self._subject(request, each, systems) for each in subjects],
            "events": self._histories(request, events),
        }

    def account_now(self, request: ConsoleRequest) -> dict[str, Any]:
        return self._now(request, "account")

    def customer_now(self, request: ConsoleRequest) -> dict[str, Any]:
        return self._now(request, "customer")

    def _now(self, request: ConsoleRequest, kind: str) -> dict[str, Any]:
        """What PortaBilling and each system say of a subscriber at this moment."""
        owner = Owner(kind, str(_number(kind, request.name)))
        self._looked_up(request, str(owner), by="asking its systems")
        found = self._context.now.of(owner)
        if self._sees(request):
            return found
        mask = self._context.masking
        handlers = [mask.resources({**each, "owner": str(owner)}) for each in found["handlers"]]
        return {"portabilling": mask.document(found["portabilling"]), "handlers": handlers}

    def _looked_up(self, request: ConsoleRequest, target: str, by: str = "") -> None:
        """Who looked at a subscriber is written down before it is shown. Raises Transient."""
        person, details = request.person, {"by": by} if by else {}
        audit.note_alone(
            self._context.store, person.email, person.role.name, LOOK_UP, target, details=details
        )

    def _subject(
        self, request: ConsoleRequest, subject: Subject, systems: Systems
    ) -> dict[str, Any]:
        if not self._sees(request):
            subject = self._context.masking.subject(subject)
        return {
            "owner": str(subject.owner) if subject.owner else None,
            "note": subject.note,
            "resources": [dict(each) for each in subject.resources],
            "statuses": [dict(each) for each in subject.statuses],
            "events": [event_json(event_history) for event_history in subject.events],
            "explanation": explain_subject(subject, systems).to_json(),
        }

    def handlers(self, request: ConsoleRequest) -> dict[str, Any]:
        switches, now = self._context.switches.read_all(self._context.handlers.by_name)
        portabilling = self._context.switches.read(PORTABILLING)
        found = [self._handler(name, switches[name], now) for name in sorted(switches)]
        return {
            "handlers": [self._handler_masked(request, each) for each in found],
            "portabilling": plain(portabilling.write()),
        }

    def _handler_masked(self, request: ConsoleRequest, handler: dict[str, Any]) -> dict[str, Any]:
        return handler if self._sees(request) else self._context.masking.handler(handler)

    def handler(self, request: ConsoleRequest) -> dict[str, Any]:
        name = self._context.handlers.get(request.name).name
        switches, now = self._context.switches.read_all([name])
        return self._handler_masked(request, self._handler(name, switches[name], now))

    def _handler(self, name: str, state: Switch, now: datetime) -> dict[str, Any]:
        handler = self._context.handlers.get(name)
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

    def health(self, request: ConsoleRequest) -> dict[str, Any]:
        return self._context.health.look()

    def handler_health(self, request: ConsoleRequest) -> dict[str, Any]:
        """How one handler's system is, asked at this moment."""
        return self._context.health.of(self._context.handlers.get(request.name).name)

    def audit(self, request: ConsoleRequest) -> dict[str, Any]:
        query = _checked(AuditQuery, request.query)
        entries: list[dict[str, Any]] = []
        now, after = datetime.now(UTC), query.after
        while len(entries) < query.limit:
            found = self._audit_page(query, after)
            for each in found:
                after = each["at"]
                if each["expire_at"] > now and query.holds(each):
                    entries.append(plain(_without(each, "expire_at")))
                if len(entries) == query.limit:
                    break
            if len(found) < AUDIT_PAGE:
                break
        more = len(entries) == query.limit and after is not None
        return {"entries": entries, "next": after.isoformat() if more and after else None}

    def _audit_page(self, query: AuditQuery, after: datetime | None) -> list[dict[str, Any]]:
        wanted: Any = self._context.store.client.collection("audit")
        ends = min(filter(None, (after, query.until)), default=None)
        if ends is not None:
            wanted = wanted.where(filter=FieldFilter("at", "<" if after else "<=", ends))
        if query.since is not None:
            wanted = wanted.where(filter=FieldFilter("at", ">=", query.since))
        newest = wanted.order_by("at", direction=Query.DESCENDING)
        return self._context.store.find(newest.limit(AUDIT_PAGE))

    def jobs(self, request: ConsoleRequest) -> dict[str, Any]:
        limit, after = _limit(request.query, 20), request.query.get("after", "")
        found, following = _of_cursor(lambda: self._context.jobs.latest(limit, after))
        return {"jobs": [plain_job(job) for job in found], "next": following}

    def job(self, request: ConsoleRequest) -> dict[str, Any]:
        job = self._context.jobs.get(request.name)
        query, limit = request.query, _limit(request.query, 100)
        findings, following = self._context.jobs.findings(
            request.name, limit, query.get("after", ""), query.get("what", "")
        )
        shown = [plain(_without(each, "expire_at")) for each in findings]
        if not self._sees(request):
            shown = [self._context.masking.resources(each) for each in shown]
        return {**plain_job(job), "findings": shown, "next": following}

    def _systems(self) -> Systems:
        handlers = self._context.handlers.by_name
        return Systems(self._context.switches.read_all(handlers)[0], handlers)

    # ---- changing ------------------------------------------------------------------------------

    def pause(self, request: ConsoleRequest) -> dict[str, Any]:
        name, body = self._context.handlers.get(request.name).name, _body(request, ReasonBody)
        person = request.person
        switch.pause(self._context.store, name, person.email, body.reason, person.role.name)
        self._context.turn(name)
        return self.handler(request)

    def resume(self, request: ConsoleRequest) -> dict[str, Any]:
        name, body = self._context.handlers.get(request.name).name, _body(request, ReasonBody)
        person = request.person
        switch.resume(self._context.store, name, person.email, body.reason, person.role.name)
        self._context.turn(name)
        return self.handler(request)

    def replays(self, request: ConsoleRequest) -> dict[str, Any]:
        body = _body(request, ReplayBody)
        if body.handler is not None:
            self._context.handlers.get(body.handler)
        if body.event is not None and not self._context.finding.timeline.find(body.event):
            raise NotThere(_NO_EVENT.format(body.event))
        ident = self._context.jobs.start(
            "replay",
            body.spec(),
            request.person,
            dry_run=body.dry_run,
            rate=body.rate,
            reason=body.reason,
        )
        return {"job": ident}

    def reconciles(self, request: ConsoleRequest) -> dict[str, Any]:
        body = _body(request, ReconcileBody)
        if self._context.handlers.get(body.handler).kind == "message":
            raise JobConflict(
                f"{body.handler} sends messages and keeps no state: there is nothing to compare; "
                "replay its events instead"
            )
        ident = self._context.jobs.start(
            "reconcile",
            body.spec(),
            request.person,
            fix=body.fix,
            rate=body.rate,
            reason=body.reason,
        )
        return {"job": ident}

    def try_handler(self, request: ConsoleRequest) -> dict[str, Any]:
        """The requests that a handler would make for an account, or makes."""
        name, body = self._context.handlers.get(request.name).name, _body(request, TryBody)
        person, owner = request.person, str(Owner("account", str(body.account)))
        if body.send:
            audit.note_alone(
                self._context.store, person.email, person.role.name, "try", name,
                body.reason, {"owner": owner},
            )  # fmt: skip
        else:
            self._looked_up(request, owner, by=f"trying {name}")
        try:
            return self._context.handlers.ask(name, "/try", {"owner": owner, "send": body.send})
        except Terminal as error:
            raise HandlerRefuses(str(error)) from None

    def kept(self, request: ConsoleRequest) -> dict[str, Any]:
        i_account, held = _number("account", request.name), request.query.get("held") == "true"
        return _kept(erase.find(self._context.store, i_account, held=held))

    def erase(self, request: ConsoleRequest) -> dict[str, Any]:
        i_account, body = _number("account", request.name), _body(request, EraseBody)
        found = erase.find(self._context.store, i_account, held=body.held)
        count = erase.erase(self._context.store, i_account, found, request.person, body.reason)
        return {**_kept(found), "deleted": count}

    def stop_job(self, request: ConsoleRequest) -> dict[str, Any]:
        self._context.jobs.stop(request.name, request.person, _body(request, ReasonBody).reason)
        return plain_job(self._context.jobs.get(request.name))

    def resume_job(self, request: ConsoleRequest) -> dict[str, Any]:
        self._context.jobs.resume(request.name, request.person, _body(request, ReasonBody).reason)
        return plain_job(self._context.jobs.get(request.name))


def _kept(found: erase.Found) -> dict[str, Any]:
    return {"kept": found.kinds, "against": list(found.against)}


def plain_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job as JSON."""
    shown: dict[str, Any] = plain(_without(job, "expire_at"))
    return shown


# ---- routes ------------------------------------------------------------------------------------


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


ROUTES = (
    _Route("GET", "/api/me", Role.viewer, Api.me),
    _Route("GET", "/api/overview", Role.viewer, Api.overview),
    _Route("GET", "/api/events", Role.viewer, Api.events),
    _Route("GET", "/api/parked", Role.viewer, Api.parked),
    _Route("GET", "/api/events/{name}", Role.viewer, Api.event),
    _Route("GET", "/api/events/{name}/details", Role.viewer, Api.event_details),
    _Route("GET", "/api/search", Role.viewer, Api.search),
    _Route("GET", "/api/accounts/{name}", Role.viewer, Api.account),
    _Route("GET", "/api/customers/{name}", Role.viewer, Api.customer),
    _Route("GET", "/api/find", Role.viewer, Api.find),
    _Route("GET", "/api/handlers", Role.viewer, Api.handlers),
    _Route("GET", "/api/handlers/{name}", Role.viewer, Api.handler),
    _Route("GET", "/api/audit", Role.viewer, Api.audit),
    _Route("GET", "/api/jobs", Role.viewer, Api.jobs),
    _Route("GET", "/api/jobs/{name}", Role.viewer, Api.job),
    _Route("GET", "/api/health", Role.operator, Api.health),
    _Route("GET", "/api/handlers/{name}/health", Role.operator, Api.handler_health),
    _Route("GET", "/api/accounts/{name}/now", Role.operator, Api.account_now),
    _Route("GET", "/api/customers/{name}/now", Role.operator, Api.customer_now),
    _Route("POST", "/api/handlers/{name}/pause", Role.operator, Api.pause),
    _Route("POST", "/api/handlers/{name}/resume", Role.operator, Api.resume),
    _Route("POST", "/api/handlers/{name}/try", Role.operator, Api.try_handler),
    _Route("GET", "/api/accounts/{name}/kept", Role.viewer, Api.kept),
    _Route("POST", "/api/accounts/{name}/erase", Role.admin, Api.erase),
    _Route("POST", "/api/parked/{name}/send", Role.operator, Api.send_parked),
    _Route("POST", "/api/replays", Role.operator, Api.replays),
    _Route("POST", "/api/reconciles", Role.operator, Api.reconciles),
    _Route("POST", "/api/jobs/{name}/stop", Role.operator, Api.stop_job),
    _Route("POST", "/api/jobs/{name}/resume", Role.operator, Api.resume_job),
)


def _route(method: str, path: str) -> tuple[_Route, str]:
    there = [(route, name) for route in ROUTES if (name := name_in(path, route.path)) is not None]
    for route, name in there:
        if route.method == method:
            return route, name
    if there:
        raise _MethodRefused(", ".join(sorted({route.method for route, _ in there})))
    raise NotThere(f"there is no {path}: docs/console-api.md lists what there is")


# ---- what was written --------------------------------------------------------------------------


def _body(request: ConsoleRequest, model: type[M]) -> M:
    try:
        document = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON: write an object") from None
    return _validated(model, document)


def _checked(model: type[M], query: Mapping[str, str]) -> M:
    """What was asked for in the address; what is empty was not."""
    return _validated(model, {name: text for name, text in query.items() if text.strip()})


def _validated(model: type[M], document: object) -> M:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise BadRequest(sentences(error)) from None


def _limit(query: Mapping[str, str], usual: int) -> int:
    limit = _number("limit", query.get("limit", str(usual)))
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"limit: write a number from 1 to {MAX_LIMIT}")
    return limit


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"{name}: {text!r} is not a number")
    return int(text)


def _of_cursor(read: Callable[[], T]) -> T:
    """A page at the cursor that was given."""
    try:
        return read()
    except ValueError as error:
        raise BadRequest(f"after: {error}") from None


def _without(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}
