"""The tasks of a network element, brought to what the warrants call for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from nsps.connector.base import Call
from nsps.domain.outcome import DeliveryError, Terminal, Transient

from .protocol import Mediation, Task, X1Client
from .targets import IMSI, NUMBER, Identities, Targets
from .warrants import Warrant, Warrants


@dataclass(frozen=True, slots=True)
class Form:
    """How a task is written. ``imsi_element``: what it calls an IMSI; ``mediation``: whether it
    holds the LIID and the warrant's times."""

    imsi_element: str
    mediation: bool


@dataclass(frozen=True, slots=True)
class Tasks:
    """Knows what should be there, and makes it so; safe to share between threads."""

    x1: X1Client
    targets: Targets
    form: Form

    def follow(self, warrants: Warrants, account: str, now: Identities, call: Call) -> None:
        """Modify the tasks of an account that has these identities now.

        Never activates: this instance's list may be minutes old, and the warrant withdrawn. Raises
        Transient, Terminal.
        """
        for each in warrants.running(datetime.now(UTC)):
            if now and each.is_about(account, now.get(NUMBER)):
                wanted = self._task(warrants, each, now)
                if self.x1.task(wanted.xid, call) not in (None, wanted):
                    self.x1.modify(wanted, call)

    def bring(self, warrants: Warrants, call: Call) -> int:
        """Bring all tasks to the warrants; how many that was not possible for. Raises Transient
        where nothing could be begun."""
        running = {warrants.xid(each): each for each in warrants.running(datetime.now(UTC))}
        held = self.x1.held(call)
        failed = 0
        for xid in held - running.keys():
            if warrants.owns(xid):
                failed += _fails(partial(self.x1.deactivate, xid, call))
        for each in random.sample(list(running.values()), len(running)):  # none is always last
            failed += _fails(partial(self._bring, warrants, each, held, call))
        return failed

    def listed(self, warrants: Warrants, call: Call) -> list[dict[str, Any]]:
        """Each warrant, and how it stands in the network. Raises Transient."""
        held = self.x1.held(call)
        listed = [self._shown(warrants, each, held, call) for each in warrants.warrants]
        left = held - {warrants.xid(each) for each in warrants.warrants}
        return listed + [
            {"xid": xid, "network": "not on the list, and still there"}
            for xid in sorted(filter(warrants.owns, left))
        ]

    def _shown(
        self, warrants: Warrants, each: Warrant, held: frozenset[str], call: Call
    ) -> dict[str, Any]:
        now, xid = datetime.now(UTC), warrants.xid(each)
        phase = "running" if each.runs(now) else "waiting" if now < each.start else "ended"
        document = each.model_dump(mode="json", exclude_none=True)
        about = {**document, "xid": xid, "phase": phase}
        try:
            if phase != "running":
                return {**about, "network": "still there" if xid in held else "absent"}
            was, wanted = self._standing(warrants, each, held, call)
        except DeliveryError as error:
            return {**about, "network": "unknown", "problem": str(error)}
        network = "absent" if was is None else "active" if was == wanted else "differs"
        return {**about, "network": network, "identities": dict(sorted(wanted.identities))}

    def _bring(self, warrants: Warrants, each: Warrant, held: frozenset[str], call: Call) -> None:
        was, wanted = self._standing(warrants, each, held, call)
        if was == wanted or (was is not None and self.x1.modify(wanted, call)):
            return
        self.x1.activate(wanted, call)

    def _standing(
        self, warrants: Warrants, each: Warrant, held: frozenset[str], call: Call
    ) -> tuple[Task | None, Task]:
        """The task of a warrant that runs: as it is, and as it should be. Where PortaBilling names
        nothing that could be intercepted, the task keeps its identities.

        Raises Transient; Terminal where there is no task either.
        """
        xid = warrants.xid(each)
        was = self.x1.task(xid, call) if xid in held else None
        now = self.targets.now(each)
        wanted = self._task(warrants, each, now)
        if was is not None and not now:
            wanted = replace(wanted, identities=was.identities)
        if not wanted.identities:
            raise Terminal("PortaBilling names no number and no SIM card: the account is closed?")
        return was, wanted

    def _task(self, warrants: Warrants, each: Warrant, now: Identities) -> Task:
        named: Mapping[str, str | None] = {
            NUMBER: each.number or now.get(NUMBER),
            self.form.imsi_element: now.get(IMSI),
        }
        mediation = None
        if self.form.mediation:
            kind = each.delivery.replace("X", "HI")
            mediation = Mediation(each.liid, kind, each.start, each.end)
        return Task(
            warrants.xid(each),
            frozenset((name, text) for name, text in named.items() if text),
            each.delivery,
            frozenset(map(str, each.destinations)),
            mediation,
        )


def _fails(deed: Callable[[], object]) -> bool:
    """Whether it fails: the other warrants do not wait for it."""
    try:
        deed()
    except (Transient, Terminal):
        return True
    return False
