"""What a subscriber gets: the attributes of the Access-Accept, and a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nsps.domain.counters import amount_left
from nsps.domain.fields import Fields
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import Block, PbData

from .attributes import Attributes
from .settings import ANY_PLAN, Given, Settings

Row = dict[str, Any]
"""``attribute``, ``op`` and ``value`` of radcheck or radreply; ``groupname`` and ``priority``."""

_GIGAWORD = 2**32
_MOST = _GIGAWORD - 1


class Policy:
    """The settings ``reply``, ``plans``, ``quota`` and ``group``."""

    def __init__(self, settings: Settings, attributes: Attributes) -> None:
        self._settings, self._attributes = settings, attributes
        self._reply = Fields.parse("reply", settings.reply)
        self._group = Fields.parse("group", {"group": settings.group} if settings.group else {})
        self._plan = Fields.parse("plan", {"plan": settings.plan} if settings.plans else {})

    def reads(self) -> Iterator[tuple[str, Block]]:
        yield from self._reply.reads()
        yield from self._plan.reads()
        yield from self._group.reads()
        if self._settings.quota is not None:
            yield "quota", Block.FULL_VD_COUNTER_INFO

    def rows(self, pb: PbData, served: bool) -> dict[str, list[Row]]:
        """``reply``, and ``group`` where NSPS looks after it; empty where not served. Raises
        Terminal for what FreeRADIUS would not take."""
        made = {"reply": self._reply_rows(pb) if served else []}
        for name, source in self._group.sources.items():
            group = source.value(pb) if served else None
            made[name] = [] if group is None else [{"groupname": _text(group), "priority": 0}]
        return made

    def _reply_rows(self, pb: PbData) -> list[Row]:
        """In the order of their names."""
        given = {**self._of_plan(pb), **self._of_account(pb), **self._of_quota(pb)}
        rows = []
        for name, value in sorted(given.items()):
            values, op = (value, "+=") if isinstance(value, list) else ([value], ":=")
            for each in sorted(values):
                try:
                    self._attributes.check(name, each)
                except ValueError as error:
                    raise Terminal(f"the subscriber's value for {error}") from None
                rows.append({"attribute": name, "op": op, "value": each})
        return rows

    def _of_account(self, pb: PbData) -> Given:
        values = self._reply.values(pb)
        return {name: _text(value) for name, value in values.items() if value is not None}

    def _of_plan(self, pb: PbData) -> Given:
        plans = self._settings.plans
        if not plans:
            return {}
        plan = self._plan.values(pb)["plan"]
        found = plans.get(_text(plan)) if plan is not None else None
        found = plans.get(ANY_PLAN) if found is None else found
        if found is None:
            raise Terminal(
                f"the setting plans has none for the subscriber's {self._settings.plan}: add it, "
                f"or one for all others ({ANY_PLAN})"
            )
        return found

    def _of_quota(self, pb: PbData) -> Given:
        quota = self._settings.quota
        amount = None if quota is None else amount_left(pb, quota.service, quota.group)
        if quota is None or amount is None:
            return {}
        left = int(amount * quota.octets_per_unit)
        if left == 0:
            return quota.exhausted  # and no limit of 0, which many a NAS takes for none
        given: Given = {}
        if quota.attribute:
            given[quota.attribute] = str(left % _GIGAWORD if quota.gigawords else min(left, _MOST))
        if quota.gigawords:
            given[quota.gigawords] = str(left // _GIGAWORD)
        return given


def _text(value: Any) -> str:
    """A value of PortaBilling as FreeRADIUS reads it."""
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
