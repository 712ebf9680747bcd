"""Which plan a subscriber has, and the charging rules of its live sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nsps.connector.base import Call, State
from nsps.domain.counters import amount_left
from nsps.domain.fields import Fields
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block, PbData

from .api import Object, PyHssApi
from .settings import Settings, apns_of


class Policy:
    """The settings ``plan``, ``plans`` and ``quota``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plan = Fields.parse("plan", {"plan": settings.plan} if settings.plans else {})

    def reads(self) -> Iterator[tuple[str, Block]]:
        yield from self._plan.reads()
        if self._settings.quota is not None:
            yield "quota", Block.FULL_VD_COUNTER_INFO

    def given(self, pb: PbData) -> dict[str, Any]:
        """APNs and speeds of the subscriber. Raises BlockNotRead."""
        quota = self._settings.quota
        if quota is not None and amount_left(pb, quota.service, quota.group) == 0:
            return self._settings.given(quota.plan)
        plan = self._plan.values(pb).get("plan")
        return self._settings.given(None if plan is None else str(plan))

    def push(self, imsi: str, state: State, api: PyHssApi, call: Call) -> None:
        """Install the charging rules of the subscriber's APNs in its live sessions.

        A session stays under the APN with which it began. So the rules go to it by every APN of
        the settings that has the same name; PyHSS says that there is no session by the others.
        """
        held = {each: api.apn(each, call) for each in sorted({*self._settings.apns()})}
        for own in sorted(apns_of(state)):
            apn = held[own]
            if apn is None:
                raise Transient(f"PyHSS has no APN {own}: correct default_apn, apn_list or plans")
            same = [each for each, at in held.items() if at and at.get("apn") == apn.get("apn")]
            for rule in _rules(own, apn):
                for each in same:
                    api.push_rule(imsi, each, rule, call)


def _rules(own: int, apn: Object) -> list[int]:
    """The ids in an APN's charging_rule_list, such as "1,2"."""
    listed = str(apn.get("charging_rule_list") or "").replace(" ", "")
    if not all(map(str.isdecimal, rules := [each for each in listed.split(",") if each])):
        raise Transient(f"charging_rule_list of PyHSS's APN {own} is no list of ids: correct it")
    return [int(each) for each in rules]
