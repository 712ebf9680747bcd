"""``main = serve(MyConnector)``: the function of one handler.

POST / is the Pub/Sub push, POST /process-event the published NSPS contract, GET /health tells
whether the function is up (``?deep=1``: and whether its system is).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nsps.cloud.messages import EnrichedMessage, MalformedMessage, PushMessage
from nsps.cloud.push import PushGuard, PushRefused
from nsps.cloud.receiver import Reply, acknowledged, again, healthy, receive
from nsps.connector import contract
from nsps.connector.base import (
    AnswersLater,
    Call,
    Confidential,
    Connector,
    Context,
    Enriched,
    MessageConnector,
    Ordering,
    Scheduled,
    not_given,
    not_read,
)
from nsps.connector.console_request import ConsoleRequest, InvalidRequest, read_request
from nsps.connector.contract import ContractAnswer
from nsps.connector.kinds import DeliveryContext, pipeline
from nsps.connector.preview import Inspected, Inspector, NoState
from nsps.connector.trial import Trial
from nsps.delivery.gate import Gate
from nsps.delivery.instance import InstanceContext
from nsps.delivery.ledger.ledger import Ledger
from nsps.delivery.pipeline import Pipeline
from nsps.delivery.resend import Resend
from nsps.delivery.switch import Switches
from nsps.delivery.verdict import Verdict
from nsps.domain.outcome import DeliveryError, Terminal, Transient
from nsps.domain.snapshot import PbData
from nsps.runtime import log, trace
from nsps.runtime.lazy import Lazy
from nsps.runtime.mistakes import sentences
from nsps.runtime.secrets import SecretValue
from nsps.runtime.settings import ConnectorSettings, HandlerSettings, SettingsError
from nsps.transport.deadline import Deadline
from nsps.transport.tls import TLS_SECRETS

if TYPE_CHECKING:
    import flask

    from nsps.connector.by_list import PageInspector

_log = log.get(__name__)

CONTRACT_PATH = "/process-event"
CONSOLE_PATHS = ("/preview", "/compare", "/keys", "/try", "/settings", "/confidential")
SCHEDULED_PATH = "/scheduled"
CHECK_SECONDS = 5.0
SCHEDULED_SECONDS = 40.0
CONFIDENTIAL_SECONDS = 60.0


def serve(
    connector: type[Connector[Any]], environ: Mapping[str, str] = os.environ
) -> Callable[[flask.Request], flask.Response]:
    """The HTTP function for a connector class.

    Where the environment names a handler, its settings are checked now, so that a function that
    is set up wrongly does not start. Raises SettingsError.
    """
    function = HandlerFunction(connector, environ)
    if "NSPS_HANDLER" in environ:
        function.start()
    return lambda request: function.handle(request).to_flask()


def make_connector(
    connector: type[Connector[Any]], handler: HandlerSettings, context: InstanceContext
) -> Connector[Any]:
    """A connector as its handler sets it up. Raises SettingsError."""
    try:
        settings = connector.settings_model.model_validate(handler.settings)
    except ValidationError as error:
        raise SettingsError(f"handler {handler.name}, settings: {sentences(error)}") from None

    def secret(name: str) -> SecretValue:
        return context.secrets.get(handler.secrets[name])

    def refresh(name: str) -> SecretValue:
        return context.secrets.refresh(handler.secrets[name])

    has_secret = handler.secrets.__contains__
    wrong = [
        *(f"settings.{n}: {what}" for n, what in not_read(connector, settings, handler.requires)),
        *(f"secrets.{n}: {what}" for n, what in not_given(connector, settings, handler.secrets)),
    ]
    if wrong:
        raise SettingsError(f"handler {handler.name}, {'; '.join(wrong)}")
    given = Context(
        handler.name, context.http, secret, has_secret, refresh,
        context.secrets.look_up, context.portabilling,
    )  # fmt: skip
    if any(map(has_secret, TLS_SECRETS)):
        given = replace(given, http=context.make_http(given.tls()))
    return connector(settings, given)


def reads_again(connector: Connector[Any]) -> bool:
    """Whether its events may have to go through enrichment again before they are delivered."""
    return isinstance(connector, MessageConnector) and connector.ordering is Ordering.NEWEST


class HandlerFunction:
    """One handler's function instance."""

    def __init__(self, connector: type[Connector[Any]], environ: Mapping[str, str]) -> None:
        self.start = Lazy(lambda: _Started(connector, environ))
        """Wires the parts; once per instance. Raises SettingsError."""

    def handle(self, request: flask.Request) -> Reply:
        """Answer one request. Never raises."""
        try:
            started = self.start()
        except SettingsError as error:
            return again(str(error))
        if request.path == "/health":
            return _health(request, started)
        if request.path.rstrip("/") == CONTRACT_PATH:
            return _contract(request, started)
        if request.path.rstrip("/") in CONSOLE_PATHS:
            return _for_console(request, started)
        if request.path.rstrip("/") == SCHEDULED_PATH:
            return _scheduled(request, started)
        if request.path != "/":
            return _reply(contract.not_found())
        if request.method != "POST":
            return _reply(contract.method_not_allowed("POST"))
        return receive(request, started.guard, started.deliver_push)


class _Started:
    def __init__(self, connector: type[Connector[Any]], environ: Mapping[str, str]) -> None:
        settings = ConnectorSettings.from_env(environ)
        self.handler = settings.handler
        self.context = InstanceContext(settings, settings.portabilling, environ)
        self.guard = PushGuard(settings.push, self.context.http)
        self.connector = make_connector(connector, settings.handler, self.context)
        self.gate: Lazy[Gate] = Lazy(
            lambda: Gate(self.handler, Switches(self.context.store()), ask=self.ask_system)
        )
        self.pipeline: Lazy[Pipeline] = Lazy(self._make_pipeline)
        self.inspector: Lazy[Inspector] = Lazy(self._make_inspector)
        self.pages: Lazy[PageInspector] = Lazy(self._make_page_inspector)
        self.trial: Lazy[Trial] = Lazy(
            lambda: Trial(
                self.handler, self.connector, self.inspector(), self.context.redactor, self.deliver
            )
        )
        self._blocks = settings.handler.requires
        keeps_state = not isinstance(self.connector, MessageConnector)
        self.must_be_said = self._blocks if keeps_state else ()
        """What an event of the contract must say: nothing is removed for want of a block."""
        self._events_topic = settings.events_topic
        if reads_again(self.connector) and self._events_topic is None:
            raise SettingsError(
                f"handler {self.handler.name}: NSPS_EVENTS_TOPIC is missing: an event that another "
                "one overtook is read again; write reads_again: true into the connector's manifest"
            )

        if isinstance(self.connector, AnswersLater) and not self.handler.answers_later:
            raise SettingsError(
                f"handler {self.handler.name}: its receipts would never come in: "
                "write receipts: true into the connector's manifest"
            )
        if isinstance(self.connector, Scheduled) and not self.handler.scheduled:
            raise SettingsError(
                f"handler {self.handler.name}: its schedule would never be kept: "
                "write scheduled: true into the connector's manifest"
            )

    def _make_pipeline(self) -> Pipeline:
        context = self.context
        ledger = Ledger(context.store())
        delivering = DeliveryContext(
            self.handler, ledger, context.poster(), context.redactor, self.gate()
        )
        return pipeline(self.connector, delivering)

    def _make_inspector(self) -> Inspector:
        from nsps.portabilling.reader import Reader  # for the console, not for a delivery

        context = self.context
        reader = Reader(context.portabilling())
        inspected = Inspected(self.handler, context.store(), reader, context.redactor)
        return Inspector(self.connector, inspected)

    def _make_page_inspector(self) -> PageInspector:
        from nsps.connector.by_list import PageInspector

        return PageInspector(self.connector, self.inspector(), self.context.portabilling())

    def ask_system(self) -> str | None:
        """How the system is, by the connector's own check: None for well, or why not."""
        redact: Callable[[str], str] = str
        try:
            redact = self.context.redactor().text_for_store
            reference = f"{self.handler.name}/health"
            self.connector.check(Call(Deadline(CHECK_SECONDS), reference=reference))
        except DeliveryError as error:
            return redact(str(error))
        except Exception as error:
            _log.error("the check failed in a way the connector does not name", error=error)
            return f"its check failed unexpectedly ({type(error).__name__}): its log says where"
        return None

    def deployed(self) -> dict[str, Any]:
        """The handler's settings as they are deployed, with the defaults; of secrets the names."""
        handler = self.handler
        settings = self.connector.settings.model_dump(mode="json")
        return {
            "settings": self.context.redactor().for_store(settings),
            "secrets": sorted(handler.secrets),
            "call_timeout_seconds": handler.call_timeout_seconds,
            "breaker": handler.breaker.model_dump(mode="json"),
        }

    def confidential(self) -> dict[str, Any]:
        """What only the role ``interception`` may see. Raises NoState where there is nothing."""
        if not isinstance(self.connector, Confidential):
            raise NoState(f"{self.handler.name}: its connector keeps nothing confidential")
        call = Call(Deadline(CONFIDENTIAL_SECONDS), reference=f"{self.handler.name}/confidential")
        return {"confidential": list(self.connector.confidential(call))}

    def deliver_push(self, push: PushMessage) -> Reply:
        message = EnrichedMessage.from_push(push)
        if self.handler.name not in message.handlers:  # a filter that is not (yet) enforced
            return acknowledged()
        # A message that does not say what was read was enriched by a version that read all of it.
        read = self._blocks if message.read is None else message.read
        event = Enriched(
            event_id=message.event_id,
            event=message.event,
            owner=message.owner,
            t=message.t,
            pb=PbData.from_contract(message.pb_data, read),
            created_at=message.created_at,
            updated_at=message.updated_at,
            run=message.run or 0,
            trace_id=message.trace.trace_id,
            request_id=message.trace.request_id,
        )
        first = message.run is None and message.retry_round is None
        received_at = message.received_at if first else None  # a replay's webhook is long ago
        verdict = self.deliver(event, received_at)
        if verdict.read_again:
            self._send_again(message)
        if verdict.ack or verdict.read_again:
            return acknowledged()
        return again(verdict.reason, verdict.retry_after, held=verdict.held)

    def _send_again(self, message: EnrichedMessage) -> None:
        """Send an event through enrichment again, for this handler alone. Raises Transient."""
        assert self._events_topic is not None
        Resend(self.context.publisher, self._events_topic).send(
            message.event_id,
            message.event.json(),
            self.handler.name,
            {"received_at": message.received_at, **message.trace.attributes()},
            run=message.run,
            retry_round=message.retry_round,
        )

    def deliver(self, event: Enriched, received_at: str | None = None) -> Verdict:
        """Deliver with no more of the snapshot than the handler requires, and log one line.

        ``received_at``: when the webhook came in, where the time since then tells how fast we are.
        """
        event = replace(event, pb=event.pb.trim(self._blocks))
        started = time.monotonic()
        with self.context.redactor().knowing(event.pb.to_contract()):
            verdict = self.pipeline().deliver(event)
            write = _log.info if verdict.ack else _log.warning
            write(
                verdict.outcome.value,
                handler=self.handler.name,
                event_type=event.event.event_type,
                owner=str(event.owner),
                ms=round((time.monotonic() - started) * 1000, 1),
                since_webhook_ms=_since(received_at),
                reason=verdict.reason or None,
            )
        return verdict


def _since(received_at: str | None) -> float | None:
    """Milliseconds since a moment in ISO 8601; None if it is none."""
    try:
        moment = datetime.fromisoformat(received_at or "")
        return round((datetime.now(UTC) - moment).total_seconds() * 1000, 1)
    except (ValueError, TypeError):
        return None


def _health(request: flask.Request, started: _Started) -> Reply:
    name = started.handler.name
    if request.method not in ("GET", "HEAD"):
        return _reply(contract.method_not_allowed("GET"))
    if not request.args.get("deep"):
        return healthy(name)
    try:
        started.guard.check(request.headers)  # whoever asks makes us call the system
    except PushRefused as refused:
        return Reply(refused.status, {"error": str(refused)})
    reason = started.ask_system()
    if reason is not None:
        return Reply(503, {"status": "Unhealthy", "service": name, "reason": reason})
    return healthy(name)


def _scheduled(request: flask.Request, started: _Started) -> Reply:
    """POST /scheduled, by the scheduler's tick: what is due now."""
    connector, name = started.connector, started.handler.name
    if request.method != "POST":
        return _reply(contract.method_not_allowed("POST"))
    try:
        started.guard.check(request.headers)
        if not isinstance(connector, Scheduled):
            return Reply(409, {"error": f"{name}: its connector has no schedule"})
        connector.on_schedule(Call(Deadline(SCHEDULED_SECONDS), reference=f"{name}/scheduled"))
    except PushRefused as refused:
        return Reply(refused.status, {"error": str(refused)})
    except DeliveryError as error:
        return Reply(503, {"error": started.context.redactor().text_for_store(str(error))})
    except Exception as error:
        _log.error("an unexpected error", error=error)
        return Reply(500, {"error": "unexpected error; see the connector's log"})
    return Reply(200, {})


def _for_console(request: flask.Request, started: _Started) -> Reply:
    """POST to one of CONSOLE_PATHS: for the console. Only /try can write."""
    try:
        started.guard.check(request.headers)
        asked = read_request(request.get_data(cache=False))
        return Reply(200, _answer_to(asked, request.path.rstrip("/"), started))
    except PushRefused as refused:
        return Reply(refused.status, {"error": str(refused)})
    except InvalidRequest as error:
        return Reply(400, {"error": str(error)})
    except NoState as error:
        return Reply(409, {"error": str(error)})
    except Terminal as error:
        return Reply(409, {"error": started.context.redactor().text_for_store(str(error))})
    except DeliveryError as error:
        _log.warning("the console's request could not be answered", reason=str(error))
        return again(started.context.redactor().text_for_store(str(error)))
    except Exception as error:
        _log.error("an unexpected error", error=error)
        return Reply(500, {"error": "unexpected error; see the connector's log"})


def _answer_to(asked: ConsoleRequest, path: str, started: _Started) -> dict[str, Any]:
    if path == "/preview":
        return asked.preview(started.inspector())
    if path == "/try":
        return asked.tried(started.trial())
    if path == "/keys":
        return asked.foreign(started.inspector())
    if path == "/settings":
        return started.deployed()
    if path == "/confidential":
        return started.confidential()
    if asked.page is not None:
        page = asked.page
        return started.pages().compare(page.offset, page.limit, page.customer, fix=page.fix)
    return asked.compare(started.inspector())


def _without_personal(event: Enriched, started: _Started) -> Verdict:
    """What became of the event; its reason, which may quote an address with an IMSI, masked."""
    verdict = started.deliver(event)
    redactor = started.context.redactor()
    with redactor.knowing(event.pb.to_contract()):
        return replace(verdict, reason=redactor.text_for_log(verdict.reason))


def _contract(request: flask.Request, started: _Started) -> Reply:
    """The published contract; answered by its table of codes and bodies."""
    handler = started.handler
    if handler.contract_token is None:
        return _reply(contract.not_found())
    if request.method != "POST":
        return _reply(contract.method_not_allowed("POST"))
    try:
        token = started.context.secrets.get(handler.contract_token).reveal()
        if not contract.authorized(request.headers.get("Authorization"), token):
            return _reply(contract.unauthorized())
        came = trace.from_headers(request.headers)
        with trace.use(came):
            body = request.get_data(cache=False)
            event = contract.read_event(body, came, datetime.now(UTC), started.must_be_said)
            with log.fields(event_id=event.event_id):
                return _reply(contract.answer_for(_without_personal(event, started)))
    except contract.Invalid as error:
        return _reply(contract.invalid(error))
    except MalformedMessage as error:
        return _reply(contract.failed(str(error)))
    except Transient as error:
        return _reply(contract.unavailable(str(error)))
    except Exception as error:
        _log.error("an unexpected error", error=error)
        return _reply(contract.failed("unexpected error; see the connector's log"))


def _reply(answer: ContractAnswer) -> Reply:
    return Reply(answer.code, answer.body, answer.headers)
