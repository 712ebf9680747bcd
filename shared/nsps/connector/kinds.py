"""How each kind of connector is run: what it wants, and how one step is performed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from nsps.connector.base import (
    Action,
    AnswersLater,
    AsynchronousConnector,
    Call,
    Connector,
    Enriched,
    Message,
    MessageConnector,
    Order,
    Ordering,
    Receipt,
    State,
    StateConnector,
)
from nsps.connector.difference import changed, differences, plain, shown
from nsps.delivery.attempt import UNWATCHED, Attempts, Performed, Performer, Watch
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import Ledger, Work
from nsps.delivery.ledger.protocol import Step, Todo
from nsps.delivery.verdict import Verdict
from nsps.domain.event import MESSAGE_KEY, RECONCILE, Owner
from nsps.domain.outcome import DeliveryError, Terminal, Transient, Unexpected
from nsps.espf.poster import Poster
from nsps.runtime import log
from nsps.runtime.redact import Redactor
from nsps.runtime.settings import HandlerSettings

T = TypeVar("T")

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What every kind needs, made once per instance."""

    handler: HandlerSettings
    ledger: Ledger
    poster: Poster
    redactor: Callable[[], Redactor]
    watch: Watch = UNWATCHED


def runner(connector: Connector[Any], context: DeliveryContext) -> Runner:
    """The runner for a connector's kind."""
    if isinstance(connector, StateConnector):
        return StateRunner(connector, context)
    if isinstance(connector, MessageConnector):
        return MessageRunner(connector, context)
    if isinstance(connector, AsynchronousConnector):
        return OrderRunner(connector, context)
    raise TypeError(f"{type(connector).__name__}: subclass one of the three kinds of connector")


class Runner(ABC):
    """Delivers enriched events through one connector."""

    _effects = False
    """Whether something has to follow each write."""

    def __init__(self, context: DeliveryContext) -> None:
        self._context = context

    @abstractmethod
    def deliver(self, event: Enriched) -> Verdict:
        """Deliver one event; the verdict says whether its message is done with."""

    def _attempts(self, performer: Performer) -> Attempts:
        context = self._context
        redact = context.redactor().text_for_store
        return Attempts(context.ledger, context.poster, performer, redact, watch=context.watch)

    def _work(self, event: Enriched, states: Mapping[str, State]) -> Work:
        redactor = self._context.redactor()
        return Work(
            handler=self._context.handler.name,
            delivery=delivery_id(event),
            event_id=event.event_id,
            owner=event.owner,
            i_account=event.owner.i_account,
            t=event.t,
            wanted={key: redactor.digest(plain(state)) for key, state in states.items()},
            visible={key: shown(state, redactor) for key, state in states.items()},
            group=self._context.handler.group,
            call_seconds=self._context.handler.call_timeout_seconds,
            asked=event.run > 0 or event.event.event_type == RECONCILE,
            answer_seconds=self._context.handler.answer_within_hours * 3600,
            effects=self._effects,
        )


def delivery_id(event: Enriched) -> str:
    """The delivery's document id: a replay is a run of its own."""
    return f"{event.event_id}.{event.run}" if event.run else event.event_id


def record_of(event: Enriched) -> dict[str, Any]:
    """What the delivery document says of its event, for people."""
    return {
        "event_id": event.event_id,
        "event_type": event.event.event_type,
        "owner": str(event.owner),
        "i_account": event.owner.i_account,
        "run": event.run,
        "enriched_at": event.updated_at,
    }


def _said(ask: Callable[[], T]) -> T:
    """What a connector says of an event. A failure that it does not name is one to be recorded and
    tried again, like those that it names. Raises DeliveryError."""
    try:
        return ask()
    except DeliveryError:
        raise
    except Exception as error:
        _log.error("the connector failed in a way it does not name", error=error)
        unnamed = f"the connector failed unexpectedly ({type(error).__name__}): its log says where"
        raise Unexpected(unnamed) from error


class _DesiringRunner(Runner):
    """For systems of which a connector says what they should hold."""

    def __init__(
        self, connector: StateConnector[Any] | AsynchronousConnector[Any], context: DeliveryContext
    ) -> None:
        super().__init__(context)
        self._desired = connector.desired

    def deliver(self, event: Enriched) -> Verdict:
        try:
            states = _said(lambda: self._desired(event))
        except Terminal as error:
            attempts = self._attempts(_NeverCalled())
            return attempts.reject(self._work(event, {}), record_of(event), str(error))
        except Transient as error:
            attempts = self._attempts(_NeverCalled())
            return attempts.postpone(self._work(event, {}), record_of(event), error)
        attempts = self._attempts(self._performer(states))
        return attempts.run(self._work(event, states), event, record_of(event))

    @abstractmethod
    def _performer(self, states: Mapping[str, State]) -> Performer:
        """How one step is performed towards these states."""


class StateRunner(_DesiringRunner):
    """Read, compare, write: for systems that hold a state per resource."""

    def __init__(self, connector: StateConnector[Any], context: DeliveryContext) -> None:
        super().__init__(connector, context)
        self._connector = connector
        self._effects = type(connector).after_write is not StateConnector.after_write

    def _performer(self, states: Mapping[str, State]) -> Performer:
        return _StateCalls(self._connector, states, self._context.redactor())


class _NeverCalled:
    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        raise AssertionError("a rejected event calls nothing")


class _StateCalls:
    def __init__(
        self, connector: StateConnector[Any], states: Mapping[str, State], redactor: Redactor
    ) -> None:
        self._connector, self._states, self._redactor = connector, states, redactor

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        state = None if step.todo is Todo.RELEASE else self._states[step.key]
        action, was, written = self._write(step.key, state, call)
        details: dict[str, Any] = {"action": action}
        if written:
            details["fields"] = differences(was or {}, written, self._redactor)
        effect = partial(self._connector.after_write, step.key, state, was, call)
        return Performed(action != "none", details, effect=effect if work.effects else None)

    def _write(self, key: str, state: State | None, call: Call) -> tuple[str, State | None, State]:
        """What was done, what was there before it (as far as known), and the fields written."""
        readable = self._connector.readable
        was = self._connector.read(key, call) if readable else None
        if state is None:
            if was is None and readable:
                return "none", None, {}
            self._connector.delete(key, was, call)
            return "delete", was, {}
        if was is None:
            self._connector.create(key, state, call)
            return "create", None, state
        changes = changed(was, state)
        if not changes:
            return "none", None, {}
        self._connector.change(key, state, was, call)
        return "change", was, {name: state[name] for name in state if name in changes}


class MessageRunner(Runner):
    """Each event counts once: the delivery itself is the resource.

    Where messages are ordered, the owner is the resource: one message at a time, and never older
    data after newer.
    """

    def __init__(self, connector: MessageConnector[Any], context: DeliveryContext) -> None:
        super().__init__(context)
        self._connector = connector

    def deliver(self, event: Enriched) -> Verdict:
        work = self._message_work(event)
        record = record_of(event)
        try:
            message = _said(lambda: self._connector.message(event))
        except Terminal as error:
            return self._attempts(_NeverCalled()).reject(work, record, str(error))
        except Transient as error:
            return self._attempts(_NeverCalled()).postpone(work, record, error)
        if message is None:
            return self._nothing_to_send(work, event, record)
        redact = self._context.redactor().text_for_store
        attempts = self._attempts(_MessageCall(self._connector, message, redact))
        return attempts.run(work, event, record | {"summary": redact(message.summary)})

    def _nothing_to_send(self, work: Work, event: Enriched, record: Mapping[str, Any]) -> Verdict:
        alone = Owner("event", work.delivery)
        empty = replace(work, wanted={}, owner=alone, group=None, meaning=None)
        record = {**record, "summary": "nothing to send"}
        return self._attempts(_NeverCalled()).run(empty, event, record)

    def _message_work(self, event: Enriched) -> Work:
        ident = delivery_id(event)
        ordering = self._connector.ordering
        owner = Owner("event", ident) if ordering is Ordering.EVERY else event.owner
        meaning = self._context.redactor().digest(event.event.meaning)
        return Work(
            handler=self._context.handler.name,
            delivery=ident,
            event_id=event.event_id,
            owner=owner,
            i_account=event.owner.i_account,
            t=event.t,
            wanted={f"{MESSAGE_KEY}{owner}": ident},
            visible={},
            group=self._context.handler.group,
            call_seconds=self._context.handler.call_timeout_seconds,
            answer_seconds=self._context.handler.answer_within_hours * 3600,
            receipts=isinstance(self._connector, AnswersLater),
            lasting=False,
            meaning=meaning if ordering is Ordering.NEWEST else None,
        )


class _MessageCall:
    def __init__(
        self, connector: MessageConnector[Any], message: Message, redact: Callable[[str], str]
    ) -> None:
        self._connector, self._message, self._redact = connector, message, redact

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        sent = self._connector.send(self._message, call)
        receipt = sent if isinstance(sent, Receipt) else Receipt("", sent)
        said = {"action": "send", "answer": self._redact(receipt.answer)}
        return Performed(True, said, order=receipt.id if work.receipts and receipt.id else None)


class OrderRunner(_DesiringRunner):
    """Order now, answer later: one open order per resource."""

    def __init__(self, connector: AsynchronousConnector[Any], context: DeliveryContext) -> None:
        super().__init__(connector, context)
        self._connector = connector

    def _performer(self, states: Mapping[str, State]) -> Performer:
        return _OrderCalls(self._connector, states, self._context)


class _OrderCalls:
    def __init__(
        self,
        connector: AsynchronousConnector[Any],
        states: Mapping[str, State],
        context: DeliveryContext,
    ) -> None:
        self._connector, self._states, self._context = connector, states, context

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        if step.todo is Todo.RELEASE:
            action = Action.DELETE
        else:
            action = Action.ADD if resource.confirmed is None else Action.MODIFY
        order = Order(
            key=step.key,
            action=action,
            state=self._states.get(step.key, {}),
            reference=self._context.ledger.intend(work, step, action.value),
            owner=work.owner,
            group=work.group,
        )
        order_id = self._connector.submit(order, call)
        return Performed(True, {"action": action.value}, order=order_id)
