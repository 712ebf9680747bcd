"""The processes of a running stack, found by what runs below `nsps up`; ended and stopped by id."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table; ``alive`` is False for one that only waits to be reaped."""

    pid: int
    parent: int
    group: int
    alive: bool
    command: tuple[str, ...]


def table() -> dict[int, Process]:
    """Every process by its id."""
    return {process.pid: process for process in _read_all()}


def _read_all() -> Iterator[Process]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has ended
                continue
            words = tuple(command.split("\0"))[:-1]
            alive = status[0] not in "ZX"
            yield Process(int(entry.name), int(status[1]), int(status[2]), alive, words)


def below(pid: int) -> set[int]:
    """The living descendants of a process, and what shares a process group with one of its
    children (an orphan of a killed web server's master still does)."""
    found, processes = set[int](), table()
    seek = {pid}
    while seek:
        children = {p.pid for p in processes.values() if p.parent in seek and p.alive}
        groups = {processes[child].group for child in children}
        children |= {p.pid for p in processes.values() if p.group in groups and p.alive}
        seek = children - found - {pid}
        found |= seek
    return found


def alive(pid: int) -> bool:
    process = table().get(pid)
    return process is not None and process.alive


def signal_group(pid: int, number: signal.Signals) -> None:
    """To the process and all of its group; it may have ended already."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def environment(pid: int) -> dict[str, str]:
    """What a process was given at its start."""
    pairs = (PROC / str(pid) / "environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def unread(port: int) -> int:
    """Bytes that have come in for a local TCP port and nobody has read yet."""
    total = 0
    for kind in ("tcp", "tcp6"):
        for line in (PROC / "net" / kind).read_text().splitlines()[1:]:
            _, local, _, _, queues, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == port:
                total += int(queues.rpartition(":")[2], 16)
    return total
