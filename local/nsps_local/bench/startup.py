"""What an instance costs before its first event: import time and memory of each function."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from nsps_local.bench import processor
from nsps_local.bench.figures import Aim, Section
from nsps_local.bench.world import World
from nsps_local.stack.stack import ROOT

IMPORT_AIM = Aim("at_most", 500)
MEMORY_AIM = Aim("at_most", 512)
BEST_OF = 3


def functions() -> list[str]:
    """Every folder with a function: functions/ingress, functions/connectors/database, ..."""
    found = [*ROOT.glob("functions/*/main.py"), *ROOT.glob("functions/connectors/*/main.py")]
    return sorted(str(path.parent.relative_to(ROOT)) for path in found)


def imports() -> Section:
    """The best of some fresh processes, without what Python itself takes to start."""
    section = Section(f"Import time (best of {BEST_OF} fresh processes, without the interpreter)")
    bare, bare_work = _best("pass")
    for folder in functions():
        module = ".".join([*Path(folder).parts, "main"])
        took, work = _best(f"import {module}")
        aim = IMPORT_AIM if folder == "functions/ingress" else None
        note = f"{(work - bare_work) * 1000:.0f} ms of processor time"
        section.add(folder, (took - bare) * 1000, "ms", aim, note)
    return section


def _best(code: str) -> tuple[float, float]:
    """Seconds of the fastest of some processes, and their least processor seconds."""
    took, work = [], []
    for _ in range(BEST_OF):
        started, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)  # noqa: S603
        after = os.times()
        took.append(time.perf_counter() - started)
        work.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return min(took), min(work)


def resident(world: World) -> dict[str, float]:
    """Part -> MiB resident now, of each function of the stack."""
    parts = {function.part for function in world.stack.topology.functions}
    groups = world.groups()
    return {part: processor.resident_mib(groups[part]) for part in sorted(parts)}


def memory(first: dict[str, float], after: dict[str, float]) -> Section:
    """``first``: after each function's first request; ``after``: after the load."""
    section = Section("Memory of a function's worker, resident (an instance has 512 MiB)")
    for part, size in first.items():
        note = f"{after[part]:.0f} MiB after the load" if after[part] - size > 1 else ""
        section.add(part, size, "MiB", MEMORY_AIM, note)
    return section
