"""Lawful interception over ETSI X1: the tasks that a list of warrants calls for, and no others.

Whether an account is a target must not show in what an event leaves behind (decision 28). So
every account has one resource, whose state is known by a keyed hash; every event asks the network
element how it is, takes the same time and ends alike. What is done for a target in that time may
fail unseen: the schedule activates, repairs and deactivates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from nsps.connector.base import (
    Call,
    Confidential,
    Context,
    Enriched,
    Scheduled,
    State,
    StateConnector,
)
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.address import HttpSettings
from pydantic import Field

from .protocol import Names, X1Client
from .targets import Identities, Targets, identities
from .tasks import Form, Tasks
from .warrants import Warrants

SHARE = 0.8
"""Of an event's time, for what is done in it: nothing may end late."""


class Settings(HttpSettings):
    url: str = Field(description="The network element's X1 address: https://HOST[:PORT]/PATH.")
    admf: str = Field(min_length=1, description="The name of this administration function (ADMF).")
    ne: str = Field(min_length=1, description="The network element's name.")
    version: str = Field(
        default="v1.6.1",
        pattern=r"^v\d+\.\d+\.\d+$",
        description="Of the standard, as the network element expects it.",
    )
    imsi_element: Literal["imsi", "supiimsi"] = Field(
        default="imsi", description="As what a task names an IMSI; 5G cores want supiimsi."
    )
    mediation: bool = Field(
        default=False, description="Whether a task also holds the LIID and times, for an MDF."
    )
    event_seconds: float = Field(
        default=1.0, ge=0.05, le=5, description="How long an event takes, target or not."
    )


class LiX1(StateConnector[Settings], Scheduled, Confidential):
    """One network element (a point of interception, or a mediation function)."""

    settings_model = Settings
    readable = False  # what it holds is for the role interception alone

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        names = Names(settings.admf, settings.ne, settings.version)
        self._x1 = X1Client(context.http, settings.url, names)
        form = Form(settings.imsi_element, settings.mediation)
        self._tasks = Tasks(self._x1, Targets(context), form)

    def check(self, call: Call) -> None:
        self._x1.ping(call)

    # ---- events: alike for every account ---------------------------------------------------------

    def desired(self, event: Enriched) -> Mapping[str, State]:
        if event.pb.account_info is None:
            return {}
        found = json.dumps(identities(event.pb), sort_keys=True)
        return {str(event.owner): {"identities": SecretValue(found)}}

    def create(self, key: str, state: State, call: Call) -> None:
        self._event(key, state["identities"].json(), call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        self._event(key, {}, call)  # a task ends with its warrant alone

    def _event(self, key: str, now: Identities, call: Call) -> None:
        warrants = Warrants.read(self.context.secret("warrants"))
        self._x1.ping(call)
        ends = call.deadline.at_most(self.settings.event_seconds)
        part = replace(call, deadline=ends.at_most(ends.remaining() * SHARE))
        with suppress(Exception):  # an error would tell that there is a task
            self._tasks.follow(warrants, key.removeprefix("account:"), now, part)
        time.sleep(ends.remaining())

    # ---- the schedule ----------------------------------------------------------------------------

    def on_schedule(self, call: Call) -> None:
        if self._tasks.bring(self._read_now(), call):
            raise Transient("not every warrant could be followed: the role interception sees why")

    def confidential(self, call: Call) -> list[dict[str, Any]]:
        return self._tasks.listed(self._read_now(), call)

    def _read_now(self) -> Warrants:
        return Warrants.read((self.context.refresh or self.context.secret)("warrants"))
