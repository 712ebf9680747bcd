"""The stack's processes: started, waited for, started again when they die, all ended at the end.

Every child is told by the kernel to end when we do, so that nothing is left behind even if this
process is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nsps_local.stack.errors import CannotStart

READY_SECONDS = 60.0
STOP_SECONDS = 4.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if os.name == "posix" else None


@dataclass(slots=True)
class Child:
    """One process. ``ready``: whether it answers; asked until it does."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    log: Path
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = self._spawn(output)

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            list(self.command),
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,  # noqa: PLW1509 (it only calls prctl)
            process_group=0,  # a Ctrl-C in the terminal is for us; we end the children in order
        )

    def wait_ready(
        self, go_on: Callable[[], None] = lambda: None, seconds: float = READY_SECONDS
    ) -> None:
        """Raises CannotStart if it ends, or does not answer in time; what ``go_on`` raises."""
        ends = time.monotonic() + seconds
        assert self.process is not None
        while not self.ready():
            go_on()
            if self.process.poll() is not None:
                raise CannotStart(f"{self.name} ended while it started: {self._last_words()}")
            if time.monotonic() > ends:
                raise CannotStart(
                    f"{self.name} does not answer after {seconds:g} s: see {self.log}"
                )
            time.sleep(0.05)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1][:300] if lines else 'it said nothing'} (see {self.log})"


class Processes:
    """All children, in the order in which they were started."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._children: list[Child] = []
        self._notice = notice
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, child: Child) -> None:
        self._children.append(child)
        child.start()

    def children(self) -> list[Child]:
        return list(self._children)

    def watch(self) -> None:
        """From now on start a child again that dies, as the cloud does with an instance."""
        self._watcher = threading.Thread(target=self._watch, name="watch-processes", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            for child in self._children:
                if child.process is not None and child.process.poll() is not None:
                    child.restarts += 1
                    self._notice(f"{child.name} ended ({child.process.returncode}); started again")
                    _kill_group(child.process)  # a killed web server's workers keep its port
                    child.start()

    def stop(self) -> None:
        """End every child: asked first, then killed; returns when none is left."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(5)
        running = [c.process for c in reversed(self._children) if c.process is not None]
        for process in running:
            process.terminate()  # not its group: a web server tells its workers itself
        ends = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill_group(process)
                process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The child and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
