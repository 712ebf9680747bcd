"""Times as PortaBilling writes them: UTC, to the second, without a zone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]


def moment(seconds: float) -> str:
    """Unix seconds -> "2025-05-01 12:00:00"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def day(seconds: float) -> str:
    """Unix seconds -> "2025-05-01"."""
    return moment(seconds)[:10]
