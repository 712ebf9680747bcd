"""Trouble on demand: what can be wrong with a PortaBilling, switched on and off over HTTP.

A fault meets the API calls its `methods` name (shell patterns such as "Account/*"; by default every
call under /rest; the ESPF status API has the methods espf/status, espf/groups and
espf/group/create), and may run out by itself after so many `times`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

ESPF = "espf/"

Kind = Literal[
    "kill_tokens",
    "token_dies_after",
    "login_refused",
    "html",
    "non_json",
    "latin1",
    "empty",
    "bad_gateway",
    "hang",
    "slow",
    "close",
    "fail",
    "standalone_mode",
    "status_api_down",
]
NEEDS = {"hang": "seconds", "slow": "milliseconds", "fail": "percent", "token_dies_after": "calls"}


class Fault(BaseModel):
    """One fault, as sent to POST /sandbox/faults.

    when: for slow, whether the delay comes before the answer is computed or after (then the answer
    is old when it arrives). status: of a dead ESPF status API. faultcode, faultstring: what fail,
    kill_tokens and login_refused say instead of their usual words. refresh_tokens=false:
    kill_tokens leaves those alive.
    """

    model_config = ConfigDict(extra="forbid")

    fault: Kind
    methods: list[str] | None = None
    times: int | None = Field(None, gt=0)
    seconds: float | None = Field(None, ge=0, le=3600)
    milliseconds: float | None = Field(None, ge=0, le=3_600_000)
    percent: float | None = Field(None, ge=0, le=100)
    calls: int | None = Field(None, ge=0)
    when: Literal["before", "after"] = "before"
    status: int = Field(503, ge=400, le=599)
    faultcode: str | None = None
    faultstring: str | None = None
    refresh_tokens: bool = True
    _met: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _complete(self) -> Fault:
        needed = NEEDS.get(self.fault)
        if needed and getattr(self, needed) is None:
            raise ValueError(f'the fault "{self.fault}" needs "{needed}"')
        return self

    def meets(self, method: str) -> bool:
        if self.fault == "status_api_down":
            return method.startswith(ESPF)
        if self.fault == "login_refused":
            return method == "Session/login"
        if self.methods is None:
            return not method.startswith(ESPF)
        return any(fnmatchcase(method, pattern) for pattern in self.methods)

    def spent(self) -> bool:
        """Count one more meeting; True when that was the last."""
        self._met += 1
        return self.times is not None and self._met >= self.times

    def shown(self) -> dict[str, Any]:
        shown = self.model_dump(exclude_defaults=True)
        if self.times is not None:
            shown["times_left"] = self.times - self._met
        return shown


class Faults:
    """The faults that are on. Thread-safe; a call that hangs is let go when faults are cleared."""

    def __init__(self, chance: Callable[[], float] | None = None) -> None:
        self._chance = chance or random.random
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._released = threading.Event()

    def add(self, fault: Fault) -> None:
        """Switch a fault on; the same fault for the same methods is replaced."""
        with self._lock:
            self._faults = [
                f for f in self._faults if (f.fault, f.methods) != (fault.fault, fault.methods)
            ]
            self._faults.append(fault)

    def clear(self, kind: str | None = None) -> None:
        """Switch off every fault, or every one of a kind, and let go of the calls that hang."""
        with self._lock:
            self._faults = [f for f in self._faults if kind is not None and f.fault != kind]
            self._released.set()
            self._released = threading.Event()

    def close(self) -> None:
        """Let go of every call that hangs, and hold none from now on."""
        with self._lock:
            self._faults = []
            self._released.set()

    def shown(self) -> list[dict[str, Any]]:
        with self._lock:
            return [fault.shown() for fault in self._faults]

    def is_on(self, kind: str) -> bool:
        with self._lock:
            return any(fault.fault == kind for fault in self._faults)

    def meeting(self, method: str) -> list[Fault]:
        """The faults this call meets, in the order in which they were switched on."""
        with self._lock:
            met = [f for f in self._faults if f.meets(method) and self._strikes(f)]
            spent = {id(fault) for fault in met if fault.spent()}
            self._faults = [f for f in self._faults if id(f) not in spent]
            return met

    def _strikes(self, fault: Fault) -> bool:
        return fault.percent is None or self._chance() * 100 < fault.percent

    def wait(self, seconds: float) -> None:
        """Let a call wait; not longer than until faults are cleared."""
        with self._lock:
            released = self._released
        released.wait(seconds)
