"""Attempts that stop at chosen points, one at a time: the machine says who goes on, and how.

An attempt is one handling of one message (or webhook, tick, callback) by a function instance. It
runs in a thread of its own and stops after each Firestore commit, before one that records an
effect, and before and after each call of an external system, publish and status to ESPF. Between
two stops it runs alone, so a history is the same each time it is played.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

STUCK_SECONDS = 60.0
"""An attempt that is not at its next stop by then is a mistake of the machine."""


class Go(Enum):
    """How a stopped attempt goes on."""

    ON = "goes on"
    LOST = "loses the answer of what it just did"
    FAIL = "fails at what it does next, without effect"
    LATE = "gets no answer; what it asked for takes effect later"


class Crashed(BaseException):
    """The attempt's instance is no more. ``late``: the call it was making takes effect later."""

    def __init__(self, late: bool) -> None:
        super().__init__("crashed")
        self.late = late


class Stuck(AssertionError):
    """The machine itself is wrong: an attempt waits for something that nobody will do."""


class Attempt:
    """One handling. ``done(reply)`` is called when it ends; ``done(None)`` after a crash.

    ``about``: attributes of the message that it handles. ``unrecorded``: called if it is cut off
    between an effect in an external system and the commit that records it.
    """

    def __init__(
        self,
        name: str,
        instance: object,
        handle: Callable[[], Any],
        done: Callable[[Any], None],
        about: dict[str, str] | None = None,
    ) -> None:
        self.name, self.instance, self.about = name, instance, about or {}
        self.at = ""
        self.reply: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self.unrecorded: Callable[[], None] | None = None
        self.fails = False
        self._handle, self._done = handle, done
        self._how: Go | Crashed = Go.ON
        self._may_go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def waits(self) -> bool:
        """It only waits for time to pass, or for another."""
        return self.at == "waits"

    def start(self) -> None:
        """To its first stop."""
        self._thread.start()
        self._await()

    def go(self, how: Go = Go.ON) -> None:
        """To its next stop."""
        self.fails = how is Go.FAIL
        self._release(how)

    def crash(self, *, late: bool = False) -> None:
        """Its instance dies here: it is never resumed."""
        self._release(Crashed(late))

    def cut(self) -> None:
        """Whatever it did and has not recorded may be done again."""
        if self.unrecorded is not None:
            self.unrecorded()
            self.unrecorded = None

    def _release(self, how: Go | Crashed) -> None:
        self._how = how
        self._may_go.release()
        self._await()

    def _await(self) -> None:
        if not self._stopped.acquire(timeout=STUCK_SECONDS):
            raise Stuck(f"{self.name} does not come to its next stop after {self.at!r}")
        if self.ended:
            self._thread.join()
            if self.error is not None and not isinstance(self.error, Crashed):
                raise self.error
            self._done(self.reply)

    def _run(self) -> None:
        _current.attempt = self
        try:
            self.reply = self._handle()
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self._stopped.release()

    def stop(self, where: str) -> Go:
        """Called in the attempt's own thread. Raises Crashed."""
        self.at = where
        self._stopped.release()
        self._may_go.acquire()
        how = self._how
        if isinstance(how, Crashed):
            self.cut()
            raise how
        if how is Go.LOST:
            self.cut()
        return how


_current = threading.local()


def current() -> Attempt | None:
    """The attempt that runs in this thread."""
    return getattr(_current, "attempt", None)


def stop(where: str) -> Go:
    """Stop here, if this is an attempt's own thread."""
    attempt = current()
    if attempt is None or getattr(_current, "quiet", False):
        return Go.ON
    return attempt.stop(where)


def fails() -> bool:
    """Whether what the attempt does next is to fail; it does so once."""
    attempt = current()
    if attempt is None or not attempt.fails:
        return False
    attempt.fails = False
    return True


@contextmanager
def without_stops() -> Iterator[None]:
    """Inside, the attempt holds something that others wait for: it does not stop."""
    before = getattr(_current, "quiet", False)
    _current.quiet = True
    try:
        yield
    finally:
        _current.quiet = before
