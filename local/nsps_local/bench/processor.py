"""Processor time and memory of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def seconds_of(groups: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds, so far, of each process group: name -> id of its first process.

    A function is a group: gunicorn's arbiter and its workers. Processes that have ended no longer
    count.
    """
    spent = dict.fromkeys(groups, 0.0)
    names = {group: name for name, group in groups.items()}
    for fields in _processes():
        name = names.get(int(fields[2]))
        if name is not None:
            spent[name] += (int(fields[11]) + int(fields[12])) / _TICK
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
    """The fields of /proc/PID/stat from the state on (2: group, 11 and 12: times); the id last."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            yield [*stat.rpartition(")")[2].split(), folder.name]
