"""Time that stands still unless the machine moves it: for every instance, Firestore and ESPF."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, tzinfo
from typing import Any
from unittest import mock


class Clock:
    """Seconds that have passed; the same for all, since time.monotonic is compared with itself."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._began = time.time()

    def monotonic(self) -> float:
        return self.passed

    def wall(self) -> float:
        return self._began + self.passed


def _sleep_of(sleep: Callable[[float], None]) -> Callable[[float], None]:
    def slept(seconds: float) -> None:
        sleep(seconds)

    return slept


@contextmanager
def moved(clock: Clock, sleep: Callable[[float], None]) -> Iterator[None]:
    """Inside, the product's modules read this clock, and its classes are given it.

    Modules read it as ``datetime.now``; classes take ``time.monotonic`` and ``time.sleep`` as
    parameters, whose defaults are replaced.
    """

    class Now(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class Moved(datetime, metaclass=Now):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(clock.wall(), tz)

    given = {time.monotonic: clock.monotonic, time.sleep: _sleep_of(sleep)}
    with ExitStack() as stack:
        for module in _product():
            if vars(module).get("datetime") is datetime:
                stack.enter_context(mock.patch.object(module, "datetime", Moved))
            for kind in vars(module).values():
                if inspect.isclass(kind) and kind.__module__ == module.__name__:
                    _give(stack, vars(kind).get("__init__"), given)
        yield


def _product() -> list[Any]:
    return [module for name, module in sys.modules.items() if name.startswith("nsps.")]


def _give(stack: ExitStack, init: Any, given: dict[Any, Any]) -> None:
    defaults = getattr(init, "__defaults__", None) or ()
    named = getattr(init, "__kwdefaults__", None) or {}
    if any(each in given for each in defaults if callable(each)):
        replaced = tuple(given.get(e, e) if callable(e) else e for e in defaults)
        stack.enter_context(mock.patch.object(init, "__defaults__", replaced))
    changed = {k: given[v] for k, v in named.items() if callable(v) and v in given}
    if changed:
        stack.enter_context(mock.patch.dict(named, changed))
