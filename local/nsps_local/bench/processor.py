"""Processor time and memory of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def seconds_of(groups: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds, so far, of each process with its descendants: name -> its id.

    A function is gunicorn's arbiter and its workers; PostgreSQL has a process for each session,
    each in a group of its own. Processes that have ended no longer count.
    """
    spent = dict.fromkeys(groups, 0.0)
    names = {first: name for name, first in groups.items()}
    parents, used = {}, {}
    for fields in _processes():
        parents[int(fields[-1])] = int(fields[1])
        used[int(fields[-1])] = (int(fields[11]) + int(fields[12])) / _TICK
    for pid, seconds in used.items():
        above = pid
        while above in parents and above not in names:
            above = parents[above]
        if above in names:
            spent[names[above]] += seconds
    return spent


def own_seconds() -> float:
    """Processor seconds of this process."""
    times = os.times()
    return times.user + times.system


def resident_mib(group: int) -> float:
    """Resident memory, in MiB, of the largest process of a group: the one that does the work."""
    sizes = [_resident(int(fields[-1])) for fields in _processes() if int(fields[2]) == group]
    return max(sizes, default=0.0)


def _resident(pid: int) -> float:
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _processes() -> Iterable[list[str]]:
    """/proc/PID/stat from the state on, and its id (1: parent, 2: group, 11 and 12: times)."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            yield [*stat.rpartition(")")[2].split(), folder.name]
