"""The three kinds of connector: what each wants of an event, and how it calls its system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
from nsps.delivery.gate import Gate
from nsps.delivery.ledger.documents import Resource
from nsps.delivery.ledger.ledger import Ledger, Work
from nsps.delivery.ledger.protocol import Step, Todo
from nsps.delivery.pipeline import Calls, Desired, Performed, Pipeline
from nsps.domain.event import MESSAGE_KEY, RECONCILE, Owner
from nsps.espf.poster import Poster
from nsps.runtime.redact import Redactor
from nsps.runtime.settings import HandlerSettings


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What every kind needs, made once per instance."""

    handler: HandlerSettings
    ledger: Ledger
    poster: Poster
    redactor: Callable[[], Redactor]
    gate: Gate


def pipeline(connector: Connector[Any], context: DeliveryContext) -> Pipeline:
    """The way of a handler's deliveries, for a connector of any kind."""
    return Pipeline(
        _kind(connector, context),
        context.ledger,
        context.poster,
        context.gate,
        lambda text: context.redactor().text_for_store(text),
    )


def _kind(connector: Connector[Any], context: DeliveryContext) -> _Kind:
    if isinstance(connector, StateConnector):
        return StateKind(connector, context)
    if isinstance(connector, MessageConnector):
        return MessageKind(connector, context)
    if isinstance(connector, AsynchronousConnector):
        return OrderKind(connector, context)
    raise TypeError(f"{type(connector).__name__}: subclass one of the three kinds of connector")


class _Kind(ABC):
    def __init__(self, context: DeliveryContext) -> None:
        self._context = context

    def work(self, event: Enriched) -> Work:
        """The attempt as the ledger knows it, before it is known what is wanted."""
        handler = self._context.handler
        requested = event.run > 0 or event.event.event_type == RECONCILE
        return Work(
            handler=handler.name,
            delivery=event.delivery_id,
            event_id=event.event_id,
            owner=event.owner,
            i_account=event.owner.i_account,
            t=event.t,
            wanted={},
            visible={},
            group=handler.group,
            call_seconds=handler.call_timeout_seconds,
            answer_seconds=handler.answer_within_hours * 3600,
            asked=requested,
            own_way=requested,
        )

    @abstractmethod
    def desired(self, event: Enriched, work: Work) -> Desired:
        """What the connector wants; it raises Terminal, Transient, or what it does not name."""

    def _wanting(self, work: Work, states: Mapping[str, State]) -> Work:
        redactor = self._context.redactor()
        wanted = {key: redactor.digest(plain(state)) for key, state in states.items()}
        visible = {key: shown(state, redactor) for key, state in states.items()}
        return replace(work, wanted=wanted, visible=visible)


class StateKind(_Kind):
    """Read, compare, write: for systems that hold a state per resource."""

    def __init__(self, connector: StateConnector[Any], context: DeliveryContext) -> None:
        super().__init__(context)
        self._connector = connector
        self._effects = type(connector).after_write is not StateConnector.after_write

    def desired(self, event: Enriched, work: Work) -> Desired:
        states = self._connector.desired(event)
        work = replace(self._wanting(work, states), effects=self._effects)
        calls = _StateCalls(self._connector, states, self._context.redactor())
        return Desired(work, calls, after_write=calls.after_write if self._effects else None)


@dataclass(frozen=True, slots=True)
class _StateCalls(Calls):
    connector: StateConnector[Any]
    states: Mapping[str, State]
    redactor: Redactor

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        action, was, written = self._write(step.key, self._state(step), call)
        details: dict[str, Any] = {"action": action}
        if written:
            details["fields"] = differences(was or {}, written, self.redactor)
        return Performed(action != "none", details, was=was)

    def after_write(self, step: Step, was: State | None, call: Call) -> None:
        self.connector.after_write(step.key, self._state(step), was, call)

    def _state(self, step: Step) -> State | None:
        return None if step.todo is Todo.RELEASE else self.states[step.key]

    def _write(self, key: str, state: State | None, call: Call) -> tuple[str, State | None, State]:
        """What was done, what was there before it (as far as known), and the fields written."""
        readable = self.connector.readable
        was = self.connector.read(key, call) if readable else None
        if state is None:
            if was is None and readable:
                return "none", None, {}
            self.connector.delete(key, was, call)
            return "delete", was, {}
        if was is None:
            self.connector.create(key, state, call)
            return "create", None, state
        changes = changed(was, state)
        if not changes:
            return "none", None, {}
        self.connector.change(key, state, was, call)
        return "change", was, {name: state[name] for name in state if name in changes}


class MessageKind(_Kind):
    """Each event counts once: the delivery itself is the resource.

    Where messages are ordered, the owner is the resource: one message at a time, and never older
    data after newer. Of a system that looks at the data alone, the data are the state: what it has
    already is not sent again, unless somebody asks for it.
    """

    def __init__(self, connector: MessageConnector[Any], context: DeliveryContext) -> None:
        super().__init__(context)
        self._connector = connector
        # Where reports come, each message is waited for under a name of its own.
        self._receipts = isinstance(connector, AnswersLater)

    def work(self, event: Enriched) -> Work:
        work = super().work(event)
        ordering = self._connector.ordering
        meaning = self._context.redactor().digest(event.event.meaning)
        return replace(
            work,
            owner=Owner("event", work.delivery) if ordering is Ordering.EVERY else event.owner,
            asked=work.asked and self._sends_state,
            receipts=self._receipts,
            lasting=False,
            meaning=meaning if ordering is Ordering.NEWEST else None,
        )

    def desired(self, event: Enriched, work: Work) -> Desired:
        message = self._connector.message(event)
        redact = self._context.redactor().text_for_store
        calls = _MessageCalls(self._connector, message, redact)
        if message is None:
            alone = Owner("event", work.delivery)
            nothing = replace(work, owner=alone, group=None, meaning=None)
            return Desired(nothing, calls, {"summary": "nothing to send"})
        content = work.delivery
        if self._sends_state:
            content = self._context.redactor().digest(event.pb.to_contract())
        wanted = {f"{MESSAGE_KEY}{work.owner}": content}
        return Desired(replace(work, wanted=wanted), calls, {"summary": redact(message.summary)})

    @property
    def _sends_state(self) -> bool:
        return self._connector.ordering is Ordering.STATE and not self._receipts


@dataclass(frozen=True, slots=True)
class _MessageCalls(Calls):
    connector: MessageConnector[Any]
    message: Message | None
    redact: Callable[[str], str]

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        assert self.message is not None
        sent = self.connector.send(self.message, call)
        receipt = sent if isinstance(sent, Receipt) else Receipt("", sent)
        details = {"action": "send", "answer": self.redact(receipt.answer)}
        return Performed(True, details, order=receipt.id if work.receipts and receipt.id else None)


class OrderKind(_Kind):
    """Order now, answer later: one open order per resource."""

    def __init__(self, connector: AsynchronousConnector[Any], context: DeliveryContext) -> None:
        super().__init__(context)
        self._connector = connector

    def desired(self, event: Enriched, work: Work) -> Desired:
        states = self._connector.desired(event)
        calls = _OrderCalls(self._connector, states, self._context.ledger)
        return Desired(self._wanting(work, states), calls)


@dataclass(frozen=True, slots=True)
class _OrderCalls(Calls):
    connector: AsynchronousConnector[Any]
    states: Mapping[str, State]
    ledger: Ledger

    def perform(self, work: Work, step: Step, resource: Resource, call: Call) -> Performed:
        if step.todo is Todo.RELEASE:
            action = Action.DELETE
        else:
            action = Action.ADD if resource.confirmed is None else Action.MODIFY
        order = Order(
            key=step.key,
            action=action,
            state=self.states.get(step.key, {}),
            reference=self.ledger.intend(work, step, action.value),
            owner=work.owner,
            group=work.group,
        )
        order_id = self.connector.submit(order, call)
        return Performed(True, {"action": action.value}, order=order_id)
