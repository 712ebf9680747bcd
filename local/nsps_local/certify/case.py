"""What a case of the contract is, and what is seen when it is tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any


class Level(StrEnum):
    """How good a connector is. Each level holds those before it."""

    CONTRACT = "contract"
    """It does what the published contract says."""
    ROBUST = "robust"
    """It stands what real networks, real data and real failures bring."""
    EXEMPLARY = "exemplary"
    """It is easy to operate."""


class Target(Enum):
    """Where a request goes: all of them at the host that was given."""

    SERVICE = "the connector's URL"
    HEALTH = "its health page"
    UNKNOWN = "a path that is not there"


class Way(Enum):
    """How the requests of a case are sent."""

    IN_TURN = "one after the other, a connection each"
    AT_ONCE = "all at once"
    ONE_CONNECTION = "one after the other over one connection"
    UNTIL_DONE = "again and again, as NSPS does, until it is processed"
    STOPPING = "all at once, and SIGTERM to the connector while they are under way"


class Trouble(Enum):
    """What is wrong with the system behind the connector meanwhile."""

    NONE = "it is well"
    AWAY = "it refuses connections"
    HANGS = "it takes connections and never answers"
    SLOW = "each of its answers takes a second"


def bearer(token: str) -> str | None:
    """The right credentials, as NSPS sends them."""
    return f"Bearer {token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. ``private``: the values in it that no answer may repeat."""

    what: str
    body: bytes = b""
    method: str = "POST"
    target: Target = Target.SERVICE
    authorization: Callable[[str], str | None] = bearer
    headers: Mapping[str, str] = field(default_factory=dict)
    private: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def processed(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what became of it: an answer, or why there is none."""

    request: Request
    answer: Answer | None
    trouble: str
    seconds: float
    never_sent: bool = False
    to_system: bytes = b""
    """What the connector sent to its system meanwhile."""

    @property
    def came(self) -> str:
        return str(self.answer.status) if self.answer else self.trouble


@dataclass(frozen=True, slots=True)
class Observed:
    """All that is known after a case was tried.

    ``given_up``: connections to the system that the connector made, and the system did not close.
    """

    exchanges: Sequence[Exchange]
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, or why a case was not tried. ``about``: with one of the exchanges."""

    text: str
    about: Exchange | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What has to hold, in words, and what is wrong with what came."""

    text: str
    complaints: Callable[[Observed], Iterator[Complaint]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``judges``: no requests of its own, but those of other cases (by name; "*" for all).

    ``only``: of these, those answered with that status; a case that has none is not tried.
    """

    name: str
    level: Level
    title: str
    why: str
    mend: str
    expect: Sequence[Expectation]
    send: Sequence[Request] = ()
    judges: Sequence[str] = ()
    only: int | None = None
    way: Way = Way.IN_TURN
    trouble: Trouble = Trouble.NONE
    needs_system: bool = False
    needs_state: bool = False
    """Whether it is only for connectors that keep a state, not for those that send messages."""
    patience: float = 10.0
    """Seconds that each answer is waited for."""


class State(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """What a case came to. ``exchanges``: its own, or those of other cases that were not well."""

    case: Case
    state: State
    complaints: Sequence[Complaint]
    exchanges: Sequence[Exchange] = ()
    seconds: float = 0.0


def level_of(results: Sequence[Result]) -> Level | None:
    """The highest level of which, and of all before it, no case failed."""
    reached = None
    for level in Level:
        if any(each.state is State.FAILED and each.case.level is level for each in results):
            break
        reached = level
    return reached
