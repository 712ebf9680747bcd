"""What a connector is: the three kinds, and what the kit asks of each.

A connector says what its system should hold for an enriched event, and how to speak to the system.
Order, retries, ledger, idempotency, status and logs are the kit's. It raises the errors of
nsps.domain.outcome and nothing else on purpose: Transient ("not done, try later"), NoAnswer (it may
or may not have taken effect), Unclear (the same, but it answered: the call is over), Terminal
(refused for good). Anything else counts as NoAnswer.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel

from nsps.domain.enriched import Enriched
from nsps.domain.event import Owner
from nsps.domain.outcome import AnswerState, Transient
from nsps.domain.snapshot import Block
from nsps.runtime.secrets import SecretValue
from nsps.transport.call import Call
from nsps.transport.http import Http
from nsps.transport.rest import (
    Authentication,
    NoAuthentication,
    SecretHeader,
    basic,
    without_secret,
)
from nsps.transport.tls import Tls

if TYPE_CHECKING:
    from nsps.portabilling.client import PortaBilling

State = Mapping[str, Any]
"""What one resource looks like: field -> text, number, boolean, None, a SecretValue, or lists and
maps of these, as deep as you like."""

__all__ = [
    "Action",
    "Answer",
    "AnswerState",
    "AnswersLater",
    "AsynchronousConnector",
    "Call",
    "CallbackInvalid",
    "CallbackRefused",
    "CallbackRequest",
    "Confidential",
    "Connector",
    "Context",
    "Enriched",
    "Message",
    "MessageConnector",
    "Order",
    "Receipt",
    "Scheduled",
    "State",
    "StateConnector",
    "not_given",
    "not_read",
]

SettingsT = TypeVar("SettingsT", bound=BaseModel)

AuthenticationKind = Literal["bearer", "x-auth-token", "basic", "none"]
"""How we prove ourselves to a system, where a setting says it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the kit hands to a connector: made once per instance."""

    handler: str
    http: Http
    secret: Callable[[str], SecretValue]
    """The current value of a secret of the manifest, by the manifest's name; raises Transient."""
    has_secret: Callable[[str], bool] = field(default=lambda _name: False)
    refresh: Callable[[str], SecretValue] | None = None
    """As ``secret``, read anew because the system refused the value."""
    look_up: Callable[[str], SecretValue] | None = None
    """A secret by its reference, read now: for what there is one of for each subscriber."""
    portabilling: Callable[[], PortaBilling] | None = None

    def optional(self, name: str, *, again: bool = False) -> SecretValue | None:
        """As ``secret``, or ``refresh``; None for one that the handler does not have."""
        if not self.has_secret(name):
            return None
        return (self.refresh or self.secret)(name) if again else self.secret(name)

    def secret_header(
        self,
        name: str,
        header: str = "Authorization",
        written: Callable[[str], str] = "Bearer {}".format,
    ) -> SecretHeader:
        """How a REST client shows a secret: as a bearer token, or as it is ``written``."""
        again = self.refresh or self.secret

        def current() -> SecretValue:
            if not self.has_secret(name):
                raise Transient(f"the handler has no secret {name}: give it one")
            return self.secret(name)

        return SecretHeader(current, lambda: again(name), header, written)

    def authentication(self, kind: AuthenticationKind, name: str = "credentials") -> Authentication:
        """How a REST client proves itself with a secret."""
        if kind == "bearer":
            return self.secret_header(name)
        if kind == "x-auth-token":
            return self.secret_header(name, "X-Auth-Token", str)
        return self.secret_header(name, written=basic) if kind == "basic" else NoAuthentication()

    def tls(self) -> Tls:
        """The handler's certificates, for a ``TcpPool``; ``http`` has them already."""
        return Tls(self.secret, self.has_secret, self.refresh)

    def name_of(self, call: Call) -> str:
        """A name for the call that others may see: 32 hexadecimal digits, the same for each
        repetition and for no other call."""
        return hashlib.sha256(f"{self.handler}/{call.reference}".encode()).hexdigest()[:32]

    def hide(self, *names: str) -> Callable[[str], str]:
        """Takes these secrets, as far as the handler has them, out of a text."""

        def hidden(text: str) -> str:
            for name in filter(self.has_secret, names):
                text = without_secret(text, self.secret(name))
            return text

        return hidden


class Connector(ABC, Generic[SettingsT]):
    """One kind of external system. Subclass one of the three kinds below."""

    settings_model: ClassVar[type[BaseModel]]
    """The handler's ``settings`` as the connector wants them; checked before anything starts."""

    def __init__(self, settings: SettingsT, context: Context) -> None:
        self.settings = settings
        self.context = context

    @classmethod
    def reads(cls, settings: SettingsT) -> Iterable[tuple[str, Block]]:
        """What the settings name of the snapshot: (setting, block). A handler that does not require
        such a block is refused with its configuration. Blocks that every handler of this connector
        needs are in the manifest."""
        return ()

    @classmethod
    def needs_secrets(cls, settings: SettingsT) -> Iterable[tuple[str, str]]:
        """Secrets that the manifest does not require, and these settings do: (name, why)."""
        return ()

    @abstractmethod
    def check(self, call: Call) -> None:
        """Whether the system is well: one cheap harmless call; raises what a real call would."""

    def close(self) -> None:
        """Give back connections; called when the instance ends."""


class Scheduled(ABC):
    """A connector with work that is due at a time, whether an event comes or not.

    Its manifest says ``scheduled: true``. The scheduler's tick calls it every minute, also while
    the handler is paused or its system down; two calls may overlap.
    """

    @abstractmethod
    def on_schedule(self, call: Call) -> None:
        """Do what is due; what is not done is done next time. Raises Transient, which is logged:
        it must name no person."""


class Confidential(ABC):
    """A connector that holds what only the console's role ``interception`` may see."""

    @abstractmethod
    def confidential(self, call: Call) -> Sequence[Mapping[str, Any]]:
        """What it is, as JSON; each look is noted in the audit. Raises Transient."""


def not_read(
    connector: type[Connector[Any]], settings: BaseModel, requires: Container[str]
) -> Iterator[tuple[str, str]]:
    """(setting, what is wrong) for each block that a setting needs and the handler does not
    require: it would not be read from PortaBilling."""
    for setting, block in connector.reads(settings):
        if block not in requires:
            yield (
                setting,
                f"needs {block}, which is not read from PortaBilling: add {block} to requires",
            )


def not_given(
    connector: type[Connector[Any]], settings: BaseModel, secrets: Container[str]
) -> Iterator[tuple[str, str]]:
    """(secret, what is wrong) for each that the settings need and the handler does not name."""
    for name, why in connector.needs_secrets(settings):
        if name not in secrets:
            yield name, f"missing; {why}: write the name of a secret in Secret Manager"


class StateConnector(Connector[SettingsT]):
    """A system that holds a state per resource (an IMSI in an HSS, a party in a CRM).

    The kit reads, compares and then calls create or change, or delete, one writer at a time per
    key, newest snapshot last. Each of the three must be repeatable: an attempt may have been cut
    off anywhere. "Already exists" in create and "not there" in delete are successes.

    ``was`` is what ``read`` returned a moment ago, all of it: keep the system's own ids in there (a
    field that ``desired`` does not name is not compared), and nothing is looked up twice.
    """

    readable: ClassVar[bool] = True
    """False where the system cannot be asked: then ``create`` is called for every write."""

    listable: ClassVar[bool] = False
    """True where ``keys`` can be used: reconcile then finds what NSPS never wrote."""

    shows_requests: ClassVar[bool] = False
    """True where all that changes something goes through ``nsps.transport.rest``: ``nsps try`` can
    then show it without sending it."""

    @abstractmethod
    def desired(self, event: Enriched) -> Mapping[str, State]:
        """The resources that the owner should have in this system: key -> state.

        Depends on ``event.owner`` and ``event.pb`` alone. Empty: the owner should have nothing
        (account gone, no SIM): whatever the ledger knows of the owner is removed.
        Raises Terminal if the data can never be provisioned (an invalid IMSI).
        """

    def read(self, key: str, call: Call) -> State | None:
        """What the system holds for the key; None if nothing at all, not even a part of it: then
        there is nothing to delete.

        Fields that the system does not return (secrets) are left out: they count as different
        unless the ledger is sure.
        """
        raise NotImplementedError(f"{type(self).__name__} is readable but has no read()")

    def read_many(self, keys: Sequence[str], call: Call) -> Mapping[str, State]:
        """As ``read`` for many keys; those of which the system holds nothing are left out.

        Override it where one question answers for all: reconcile then asks once a page.
        """
        raise NotImplementedError(f"{type(self).__name__} reads one key at a time")

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        """The next keys that the system holds, in the system's own order, after this one.

        ``after`` is empty at the beginning; fewer than ``limit`` keys are the last.
        """
        raise NotImplementedError(f"{type(self).__name__} is listable but has no keys()")

    @abstractmethod
    def create(self, key: str, state: State, call: Call) -> None:
        """Bring the key to the state; it was not there (or, if not readable, may be)."""

    @abstractmethod
    def change(self, key: str, state: State, was: State, call: Call) -> None:
        """Bring the key from ``was`` to the state."""

    @abstractmethod
    def delete(self, key: str, was: State | None, call: Call) -> None:
        """Remove the key, which ``was`` there; success if it is not there any more.

        ``was`` is None only where the system cannot be read.
        """

    def after_write(self, key: str, state: State | None, was: State | None, call: Call) -> None:
        """What has to follow a write of the key: a CoA or Disconnect to a RADIUS client, a removal
        from a registrar's memory. Override it where the system needs that; else nothing is owed.

        Called after create, change or delete was carried out (``state`` is None after a removal),
        in the same call and by its deadline. Until it succeeds it is owed: called again although
        the system has the state already, by whichever event comes next, with the state of then.
        ``was`` is what was there before; None also where that is not known any more (a repetition):
        do all of it then. Repeatable: it may have taken effect without an answer.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """A late answer: ``order`` is the system's id or our reference; at least one way to find it."""

    order: str
    state: AnswerState
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CallbackRequest:
    """A late answer as it came in over HTTP. ``path`` is what follows /<handler>."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str]


class CallbackRefused(Exception):
    """The notification is not from the system it claims to be from (answered with 401)."""


class CallbackInvalid(Exception):
    """The notification cannot be read (answered with 400); the message says why."""


class AnswersLater(ABC):
    """A system that says later what became of what it took: through functions/callbacks, or asked.

    The kit keeps the correlation and the deadline (``answer_within_hours``).
    """

    @property
    def askable(self) -> bool:
        """True where ``ask`` can be used."""
        return False

    @property
    def silence(self) -> AnswerState:
        """What it means that no report came in time: FAILED, or DONE where only failures are
        reported (a bounce)."""
        return AnswerState.FAILED

    @abstractmethod
    def authenticate(self, request: CallbackRequest) -> None:
        """Raise CallbackRefused unless the request proves that it is the system's."""

    @abstractmethod
    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        """The answers in a notification (it may hold none: other kinds of news).

        Raises CallbackInvalid.
        """

    def ask(self, order_id: str, call: Call) -> Answer:
        """What has become of an order; only where ``askable``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be asked")


@dataclass(frozen=True, slots=True)
class Message:
    """What a message connector sends for one event; ``summary`` is kept in the history."""

    summary: str
    content: Any


@dataclass(frozen=True, slots=True)
class Receipt:
    """The system took a message, and will report what became of it (a delivery report, a bounce).

    ``id``: how its report names it. ``answer``: what it said now, kept in the history.
    """

    id: str
    answer: str = ""


class Ordering(StrEnum):
    """Which messages go out, and in which order."""

    EVERY = "every"
    """Each event's, in no order."""
    NEWEST = "newest"
    """One at a time per owner, and never older data after newer. An event is superseded only by a
    newer one that says the same; overtaken by another one, it is read again, and its message goes
    out with the newest data. For systems of which it is unknown which types they process."""
    STATE = "state"
    """One at a time per owner; an event is superseded by any newer one of the owner; data that the
    system has already are sent again only by a replay (or where reports are awaited). Only for
    systems that look at the data alone, whatever the type of the event."""


class MessageConnector(Connector[SettingsT]):
    """A system where each event counts once (a notification).

    One whose ``send`` returns receipts is an AnswersLater, too, and says so in its manifest with
    ``receipts: true``: the outcome is accepted until the report comes, or its time is over. It
    keeps no other message back.
    """

    @property
    def ordering(self) -> Ordering:
        """Which messages go out, and in which order."""
        return Ordering.EVERY

    @abstractmethod
    def message(self, event: Enriched) -> Message | None:
        """What to send for this event; None if nothing. Raises Terminal if it never can be."""

    @abstractmethod
    def send(self, message: Message, call: Call) -> str | Receipt:
        """Send it; returns what the system said (kept in the history), or a receipt.

        ``call.reference`` is the same for every repetition: use it where the system can
        recognise one (Message-ID, Idempotency-Key).
        """


class Action(StrEnum):
    """What an order asks for."""

    ADD = "add"
    MODIFY = "modify"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Order:
    """A change that an asynchronous system is asked for. ``reference``: ours, unique per order."""

    key: str
    action: Action
    state: State
    reference: str
    owner: Owner
    group: str | None = None


class AsynchronousConnector(Connector[SettingsT], AnswersLater):
    """A system that takes an order now and answers later."""

    @abstractmethod
    def desired(self, event: Enriched) -> Mapping[str, State]:
        """As for a state connector."""

    @abstractmethod
    def submit(self, order: Order, call: Call) -> str:
        """Hand the order over; returns the id by which the system's answer will name it.

        Repeatable: the same reference may be submitted again after a lost answer.
        """
