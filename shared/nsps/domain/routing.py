"""Which handlers want which event. Patterns are over the whole event type. Pure.

``*`` stands for exactly one segment: ``SIM/*`` takes SIM/Updated, ``*/BalanceChanged`` takes
Account/BalanceChanged and Customer/BalanceChanged, ``Account/*`` does not take
Account/Status/Changed (write ``Account/*/*``), and a ``*`` inside a segment stands for any
letters (``Account/*locked``). Letters match in either case, because PortaBilling's releases spell
Account/Id/Changed and Account/ID/Changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_SEGMENT = re.compile(r"[A-Za-z0-9_*.-]+")


class InvalidPattern(ValueError):
    """An event type pattern that could never match."""


def check_pattern(pattern: str) -> str:
    """Return the pattern, or raise InvalidPattern with what is wrong and what to write."""
    segments = pattern.split("/")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise InvalidPattern(
            f"event pattern {pattern!r}: write segments of letters, digits, '_' or '*' "
            "with '/' between them, for example SIM/* or Account/Status/Changed"
        )
    if len(segments) < 2 or len(segments) > 4:
        raise InvalidPattern(
            f"event pattern {pattern!r} has {len(segments)} segment(s): "
            "ESPF event types have 2 to 4; '*' stands for one of them"
        )
    return pattern


def matches(pattern: str, event_type: str) -> bool:
    """Whether the full event type is one that the pattern stands for."""
    return _compiled(pattern).fullmatch(event_type) is not None


def wants(patterns: Iterable[str], event_type: str) -> bool:
    """Whether any of a handler's patterns takes this event type."""
    return any(matches(pattern, event_type) for pattern in patterns)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = ("[^/]+" if part == "*" else _letters(part) for part in pattern.split("/"))
    return re.compile("/".join(parts), re.IGNORECASE)


def _letters(segment: str) -> str:
    return "[^/]*".join(re.escape(piece) for piece in segment.split("*"))
