"""The bodies of what operators ask for, checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from nsps.console.jobs import DEFAULT_RATE, MAX_RATE
from nsps.domain.outcome import Outcome
from nsps.runtime.settings import EventPattern

MAX_LIMIT = 1000
"""What one answer lists at the most."""


def _rate(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_RATE:
        return float(value)
    raise ValueError(f"{value}: write events a second, above 0 and at most {MAX_RATE:g}")


def _outcome(value: object) -> Outcome:
    try:
        return Outcome(str(value).replace(" ", "_"))
    except ValueError:
        words = ", ".join(each.value for each in Outcome)
        raise ValueError(f"{value!r} is no outcome: write {words}") from None


Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
Rate = Annotated[float, BeforeValidator(_rate)]
Reason = Annotated[str, Field(max_length=500)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReasonBody(_Body):
    """Of pause, resume and stop."""

    reason: Reason = ""


class EraseBody(_Body):
    """``held``: although a system still holds something of the account."""

    held: bool = False
    reason: Reason = ""


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class EventsQuery(_Body):
    """Which events of the history. ``after``: the ``next`` of the page before.

    ``newest``: newest first, also of one account (oldest first otherwise).
    """

    limit: Limit = 20
    account: Annotated[int, Field(ge=1, lt=10**18)] | None = None
    i_event: Annotated[str, Field(max_length=200)] | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    event_type: EventPattern | None = None
    handler: str | None = None
    outcome: Annotated[
        tuple[Annotated[Outcome, BeforeValidator(_outcome)], ...], BeforeValidator(_split)
    ] = ()
    after: Annotated[str, Field(max_length=300)] = ""
    newest: bool = False

    @property
    def plain_list(self) -> bool:
        """Whether nothing but the account is asked for."""
        narrowed = self.event_type or self.handler or self.outcome or self.since or self.until
        return not (self.newest or self.after or narrowed)


class AuditQuery(_Body):
    """Which entries of the audit trail; who looked at a subscriber only with ``look_ups``."""

    limit: Limit = 50
    who: Annotated[str, Field(max_length=200)] | None = None
    action: Annotated[str, Field(max_length=50)] | None = None
    target: Annotated[str, Field(max_length=200)] | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    look_ups: bool = False
    after: AwareDatetime | None = None

    def holds(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry is wanted, beyond its time."""
        if entry["action"] == "look up" and not (self.look_ups or self.action == "look up"):
            return False
        if self.action is not None and entry["action"] != self.action:
            return False
        if self.who is not None and self.who.lower() not in str(entry["who"]).lower():
            return False
        return self.target is None or self.target in str(entry["target"])


class ReplayBody(_Body):
    """One ``event`` (an event_id or an i_event), or many by the other members."""

    event: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    handler: str | None = None
    event_type: EventPattern | None = None
    outcomes: tuple[Annotated[Outcome, BeforeValidator(_outcome)], ...] = ()
    account: Annotated[int, Field(ge=1)] | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    dry_run: bool = False
    rate: Rate = DEFAULT_RATE
    reason: Reason = ""

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if self.event is None and self.handler is None and self.account is None:
            raise ValueError("name an event, a handler or an account: nobody replays everything")
        if self.since and self.until and self.since > self.until:
            raise ValueError("since is after until: write them the other way round")
        return self

    def spec(self) -> dict[str, Any]:
        """As the job keeps it."""
        return {
            "event": self.event,
            "handler": self.handler,
            "event_type": self.event_type,
            "outcomes": [each.value for each in self.outcomes],
            "account": self.account,
            "since": _iso(self.since),
            "until": _iso(self.until),
        }


class TryBody(_Body):
    """Of one ``account``; ``send``: not only shown."""

    account: Annotated[int, Field(ge=1)]
    send: bool = False
    reason: Reason = ""


class ReconcileBody(_Body):
    """Of one ``account``, one ``customer`` with its accounts, or ``all``."""

    handler: str
    account: Annotated[int, Field(ge=1)] | None = None
    customer: Annotated[int, Field(ge=1)] | None = None
    all: bool = False
    fix: bool = False
    rate: Rate = DEFAULT_RATE
    reason: Reason = ""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum((self.account is not None, self.customer is not None, self.all)) != 1:
            raise ValueError("write one of account, customer, all")
        return self

    def spec(self) -> dict[str, Any]:
        """As the job keeps it."""
        return {"handler": self.handler, "account": self.account, "customer": self.customer}


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None
