"""The measurements and checks of the scoreboard, each a command that also runs alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Piece:
    """``environ`` goes before the command; ``long`` are those of ``--long``."""

    title: str
    says: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    long: Mapping[str, str] = field(default_factory=dict)

    def alone(self, long: bool) -> str:
        """How to run it alone, from the project's folder."""
        given = self.long if long else self.environ
        words = [f"{name}={value}" for name, value in given.items()]
        return " ".join([*words, ".venv/bin/python", shlex.join(self.command)])

    def arguments(self) -> list[str]:
        return [sys.executable, *self.command]


def _tests(*files: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *files)


PIECES = (
    Piece(
        "Load: pace, latency, processor time, memory",
        "how fast it is, beside the aims",
        ("-m", "nsps_local.bench", "--quick"),
    ),
    Piece(
        "SIGKILL at random under load, judged by the history checker",
        "nothing lost, nothing stale, and PortaBilling is told what is so",
        _tests("tests/end_to_end/test_random_kills.py"),
        {"NSPS_KILLS": "20"},
        {"NSPS_KILLS": "200"},
    ),
    Piece(
        "An outage of one hour, in simulated time",
        "all of it made up for, as fast as the system allows, and the newest state everywhere",
        _tests("tests/unit/test_outage.py"),
        {"NSPS_OUTAGE_RATE": "20"},
        {"NSPS_OUTAGE_RATE": "280"},
    ),
    Piece(
        "A system that is down beside one that is well",
        "no system delays another",
        _tests("tests/end_to_end/test_breaker.py"),
    ),
    Piece(
        "PortaBilling's tokens die, and it answers badly",
        "every event arrives once it is well",
        _tests("tests/end_to_end/test_portabilling_trouble.py"),
    ),
    Piece(
        "Duplicates and disorder: a burst for one account",
        "one entry an event; never an older state after a newer one",
        _tests("tests/end_to_end/test_burst.py"),
    ),
    Piece(
        "Generated histories of everything together",
        "every promise, judged from what the systems saw",
        _tests("tests/machine/test_machine.py"),
        {"NSPS_MACHINE_HISTORIES": "50"},
        {"NSPS_MACHINE_HISTORIES": "2000"},
    ),
    Piece(
        "Canaries in every sink",
        "nothing leaked",
        _tests("tests/end_to_end/test_canaries.py"),
    ),
    Piece(
        "Every connector of ours, certified",
        "the published contract, and what real systems do to it",
        _tests("tests/certify/test_our_connectors.py"),
    ),
    Piece(
        "Cost",
        "dollars per million events, from what is deployed",
        ("-m", "nsps_local.cli", "cost", "--rate", "40"),
    ),
)
