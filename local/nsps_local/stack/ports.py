"""Which part listens where: fixed offsets from one base, so that URLs stay the same."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from nsps_local.stack.errors import CannotStart

DEFAULT_BASE = 18600
HOST = "127.0.0.1"
ROOM = 50
"""Ports that are enough for a stack, and for what a test or a benchmark runs beside it."""

_SLOTS = range(10_000, 32_000, ROOM)  # below the ports that outgoing connections get
_taken: list[socket.socket] = []


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of the local stack. Functions follow from ``functions`` on."""

    base: int

    @property
    def sandbox(self) -> int:
        return self.base

    @property
    def pubsub(self) -> int:
        return self.base + 1

    @property
    def pubsub_control(self) -> int:
        return self.base + 2

    @property
    def firestore(self) -> int:
        return self.base + 3

    @property
    def firestore_control(self) -> int:
        return self.base + 4

    @property
    def secret_manager(self) -> int:
        return self.base + 5

    @property
    def secret_manager_control(self) -> int:
        return self.base + 6

    @property
    def metadata(self) -> int:
        return self.base + 7

    @property
    def console(self) -> int:
        """Where a browser finds the console: behind the choice of a role."""
        return self.base + 8

    @property
    def functions(self) -> int:
        return self.base + 10

    def cloud(self) -> range:
        """The ports of everything that is not a function."""
        return range(self.base, self.base + 9)


def check_base(base: int) -> None:
    """Raises CannotStart for a base that leaves no room."""
    if not 1024 <= base <= 65000:
        raise CannotStart(f"--port-base {base}: write a number from 1024 to 65000")


def check_free(ports: list[int]) -> None:
    """Raises CannotStart for the first port that somebody listens on."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise CannotStart(
                    f"port {port} on {HOST} is in use: stop what listens there, or choose others "
                    "with --port-base"
                ) from None


def reserve_base() -> int:
    """A port base with ``ROOM`` free ports, for a stack that must not meet another one.

    The last of them stays bound while this process lives: two processes that look at the same time
    never get the same base. Raises CannotStart.
    """
    for number in range(len(_SLOTS)):
        base = _SLOTS[(os.getpid() + len(_taken) + number) % len(_SLOTS)]
        guard = socket.socket()
        try:
            guard.bind((HOST, base + ROOM - 1))
            check_free(list(range(base, base + ROOM - 1)))
        except (OSError, CannotStart):
            guard.close()
            continue
        _taken.append(guard)
        return base
    raise CannotStart(f"no {ROOM} free ports in a row between {_SLOTS.start} and {_SLOTS.stop}")
