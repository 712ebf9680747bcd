"""What there is of an account, a customer, an IMSI or an MSISDN: history, ledger, statuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.cloud.firestore import FieldFilter

from nsps.cloud.store import Store, from_json
from nsps.console.handlers import Handlers
from nsps.delivery.timeline import (
    EventHistory,
    Timeline,
    expired,
    plain,
)
from nsps.domain.event import Owner
from nsps.domain.outcome import DeliveryError
from nsps.portabilling.lists import Lists

EVENTS = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """One account, customer or other owner, as NSPS knows it.

    ``resources``: what the ledger holds for it, with ``handler``; ``statuses``: those for
    PortaBilling; ``events``: the newest, oldest first. ``note``: how it was found, for people.
    """

    owner: Owner | None
    resources: tuple[Mapping[str, Any], ...] = ()
    statuses: tuple[Mapping[str, Any], ...] = ()
    events: tuple[EventHistory, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Accounts:
    """A customer's accounts, the first thousand. ``total``: of all, where PortaBilling says it.
    ``error``: why they could not be listed."""

    ids: tuple[int, ...]
    total: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What the history and the ledger are searched through."""

    store: Store
    handlers: Handlers
    lists: Callable[[], Lists]
    timeline: Timeline = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeline", Timeline(self.store, self.handlers.by_name))

    def owner(self, owner: Owner, note: str = "", limit: int = EVENTS) -> Subject:
        """All there is of an owner. Raises Transient."""
        if owner.i_account is not None:
            events = self.timeline.where("i_account", owner.i_account, limit)
        else:
            events = self.timeline.where("owner", str(owner), limit)
        return Subject(
            owner,
            tuple(self._resources("owner", "==", str(owner))),
            tuple(self._statuses(owner)),
            tuple(events),
            note,
        )

    def number(self, kind: str, number: str) -> list[Subject]:
        """The owners of an IMSI, ICCID or MSISDN: by the ledger; an MSISDN also by PortaBilling.

        Raises Transient.
        """
        label = kind.upper()
        found = self._resources("find", "array_contains", number)
        owners = {str(each["owner"]): str(each["handler"]) for each in found if each.get("owner")}
        subjects = [
            self.owner(Owner.parse(text), f"{label} {number} is {_spaced(text)}'s in {handler}")
            for text, handler in sorted(owners.items())
        ]
        if subjects:
            return subjects
        if kind == "msisdn":
            i_account = self.lists().account_of_number(number)
            if i_account is not None:
                note = f"PortaBilling says that MSISDN {number} is account {i_account}'s id"
                return [self.owner(Owner("account", str(i_account)), note)]
        released = [each["handler"] for each in found]
        if released:
            note = f"{label} {number} was removed from {', '.join(released)}: it has no owner now"
            return [Subject(None, tuple(found), note=note)]
        return []

    def numbered(self, number: str) -> list[Owner]:
        """The account and the customer of this number, if NSPS has had to do with them."""
        if not (number.isascii() and number.isdigit() and len(number) <= _LONGEST_ID):
            return []
        owners = [Owner(kind, str(int(number))) for kind in ("account", "customer")]
        return [owner for owner in owners if self._is_known(owner)]

    def listed_customer(self, number: str) -> Owner | None:
        """The customer of this number, if PortaBilling lists accounts of it."""
        if not number.isdigit() or len(number) > _LONGEST_ID:
            return None
        listed = self.accounts_of(int(number)).ids
        return Owner("customer", str(int(number))) if listed else None

    def accounts_of(self, i_customer: int) -> Accounts:
        """A customer's accounts, as PortaBilling lists them now."""
        try:
            listed = self.lists().accounts(0, i_customer)
        except DeliveryError as error:
            return Accounts((), error=str(error))
        return Accounts(listed.ids, listed.total)

    def _is_known(self, owner: Owner) -> bool:
        return bool(self._resources("owner", "==", str(owner))) or bool(
            self.timeline.where("owner", str(owner), 1)
        )

    def _resources(self, name: str, op: str, value: str) -> list[dict[str, Any]]:
        now = datetime.now(UTC)
        found = []
        for handler in sorted(self.handlers.by_name):
            resources = self.store.client.collection("handlers", handler, "resources")
            query = resources.where(filter=FieldFilter(name, op, value)).limit(50)
            for data in self.store.find(query):
                if not expired(data, now):
                    found.append(_resource(handler, data))
        return found

    def _statuses(self, owner: Owner) -> list[dict[str, Any]]:
        if owner.i_account is None:
            return []
        groups = sorted({group for group in self.handlers.groups.values() if group})
        statuses = []
        for group in groups:
            data = self.store.read(self.store.status(owner.i_account, group))
            if data is not None and not expired(data, datetime.now(UTC)):
                statuses.append(
                    {
                        "group": group,
                        "status": data.get("status"),
                        "sent": data.get("posted") == data.get("revision"),
                        "sent_at": plain(data.get("posted_at")),
                        "message": data.get("message"),
                        "refused": data.get("refused"),
                    }
                )
        return statuses


_LONGEST_ID = 9
"""Digits of PortaBilling's own numbering; what is longer is a subscriber's number."""


def kind_of(text: str) -> tuple[str, str]:
    """What a person has typed: account, customer, imsi, msisdn, iccid or event, and its number.

    The kind of a number alone follows from its length; up to nine digits it may be anything.
    """
    kind, colon, value = text.partition(":")
    kind = kind.strip().lower()
    if colon and kind in ("account", "customer", "imsi", "msisdn", "iccid", "event"):
        return kind, value.strip().removeprefix("+")
    number = text.removeprefix("+").replace(" ", "")
    if not number.isdigit():
        return "event", text
    if len(number) > 15:
        return "iccid", number
    return ("imsi" if len(number) == 15 else "msisdn"), number


def _spaced(owner: str) -> str:
    return owner.replace(":", " ")


def _resource(handler: str, data: Mapping[str, Any]) -> dict[str, Any]:
    lease = data.get("lease_until")
    return {
        "handler": handler,
        "key": data.get("key"),
        "owner": data.get("owner"),
        "state": from_json(data.get("state")),
        "sure": data.get("confirmed") is not None and not data.get("dirty"),
        "owed": bool(data.get("owed")),
        "writing": lease is not None and lease > datetime.now(UTC),
        "pending": plain(data.get("pending")),
        "changed_at": plain(data.get("changed_at")),
        "by": data.get("by"),
    }
