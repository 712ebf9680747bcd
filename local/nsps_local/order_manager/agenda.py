"""What is to happen later, done by one thread in the order of its time."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Agenda:
    """``at(seconds, task)``: the task runs so many seconds from now, never two at once."""

    def __init__(self) -> None:
        self._tasks: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="agenda", daemon=True)
        self._thread.start()

    def at(self, seconds: float, task: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._tasks, (time.monotonic() + seconds, next(self._turn), task))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(5)

    def _run(self) -> None:
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next task that is due; None when closed."""
        with self._changed:
            while not self._closed:
                if not self._tasks:
                    self._changed.wait()
                    continue
                wait = self._tasks[0][0] - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._tasks)[2]
                self._changed.wait(wait)
        return None
