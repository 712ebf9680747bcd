"""A party as a state and as Tryton has it: its fields, and its contact mechanisms by their type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nsps.connector.base import State
from nsps.domain.fields import READ, Fields
from nsps.domain.snapshot import Block, PbData
from nsps.domain.subscriber import as_msisdn

from .settings import PHONES, Settings

_CONTACT = ("type", "value_compact", "name", "active")

Ids = Mapping[str, list[int]]
"""Contact mechanisms of ours, by their type; of one type there may be several by mistake."""


class Parties:
    """How the settings map a snapshot to a party."""

    def __init__(self, settings: Settings) -> None:
        self._fields = Fields.parse("fields", settings.fields)
        self._contacts = Fields.parse("contacts", settings.contacts)
        self._name = settings.contact_name
        self.wanted = ["active", *settings.fields, *(f"contact_mechanisms.{n}" for n in _CONTACT)]
        """What is read of a party."""

    def reads(self) -> Iterable[tuple[str, Block]]:
        yield from self._fields.reads()
        yield from self._contacts.reads()

    def state(self, pb: PbData) -> dict[str, Any]:
        contacts = self._contacts.values(pb)
        return {
            **self._fields.values(pb),
            **{kind: _contact(kind, value) for kind, value in contacts.items()},
        }

    def state_of(self, party: Mapping[str, Any]) -> State:
        """What Tryton says of a party, as a state with ``id``, ``active`` and its ``Ids``."""
        fields = {n: READ[each.kind](party.get(n)) for n, each in self._fields.sources.items()}
        ids: dict[str, list[int]] = {kind: [] for kind in self._contacts.sources}
        values: dict[str, list[str]] = {kind: [] for kind in ids}
        for each in party.get("contact_mechanisms.") or ():
            if each["name"] == self._name and each["active"] and each["type"] in ids:
                ids[each["type"]].append(each["id"])
                values[each["type"]].append(each["value_compact"])
        # Two of one type are one too many: together they differ from any value.
        contacts = {kind: ", ".join(several) or None for kind, several in values.items()}
        return {**fields, **contacts, "id": party["id"], "active": party["active"], "ids": ids}

    def written(self, state: State, ids: Ids) -> dict[str, Any]:
        """A state as the values of a party that has these contact mechanisms of ours."""
        commands: list[list[Any]] = []
        for kind in self._contacts.sources:
            value, (first, *surplus) = state[kind], ids.get(kind) or [0]
            if value is None:
                surplus = ids.get(kind, [])
            elif first:
                commands.append(["write", [first], {"value": value}])
            else:
                commands.append(["create", [{"type": kind, "name": self._name, "value": value}]])
            if surplus:
                commands.append(["delete", surplus])
        fields = {name: state[name] for name in self._fields.sources}
        return {**fields, "contact_mechanisms": commands}


def _contact(kind: str, value: Any) -> str | None:
    """A contact mechanism's value as Tryton keeps it: a number with +, a mail's domain small."""
    text = str(value) if value not in (None, "") else None
    if text and kind in PHONES and (number := as_msisdn(text)):
        return f"+{number}"
    if text and kind == "email":
        local, at, domain = text.rpartition("@")
        return f"{local}{at}{domain.lower()}"
    return text
