"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """``what`` was looked at, what it ``said``; ``do``: what to do about it, if it is not good."""

    what: str
    state: State
    said: str
    do: str = ""


def good(what: str, said: str) -> Finding:
    return Finding(what, State.GOOD, said)


def bad(what: str, said: str, do: str) -> Finding:
    return Finding(what, State.BAD, said, do)


def unknown(what: str, said: str, do: str = "") -> Finding:
    return Finding(what, State.UNKNOWN, said, do)
