"""What was done, counted as Firestore bills it."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

LIBRARIES = frozenset(("gl-python", "grpc", "rest", "gax", "gapic", "gccl", "pb", "auth", "cred"))
"""What the client libraries put into x-goog-api-client: name/version."""
KINDS = ("reads", "writes", "deletes", "transactions", "aborts")


class Metrics:
    """Counters in total, by collection group, by caller.

    The caller is what a program says of itself in x-goog-api-client, beside the versions of its
    libraries: ClientInfo of the generated clients; else "".
    """

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self.groups: dict[str, Counter[str]] = {}
        self.callers: dict[str, Counter[str]] = {}

    def add(self, kind: str, group: str | None, caller: str, count: int = 1) -> None:
        self.total[kind] += count
        if group is not None:
            _of(self.groups, group)[kind] += count
        _of(self.callers, caller)[kind] += count

    def reset(self) -> None:
        self.total.clear()
        self.groups.clear()
        self.callers.clear()

    def report(self) -> dict[str, Any]:
        """{"total": counts, "groups": {group: counts}, "callers": {caller: counts}}."""
        return {
            "total": {kind: self.total[kind] for kind in KINDS},
            "groups": {name: dict(counts) for name, counts in sorted(self.groups.items())},
            "callers": {name: dict(counts) for name, counts in sorted(self.callers.items())},
        }


def _of(counters: dict[str, Counter[str]], name: str) -> Counter[str]:
    found = counters.get(name)
    if found is None:
        found = counters[name] = Counter()
    return found


def caller(context: Any) -> str:
    """What the calling program says of itself."""
    for name, value in context.invocation_metadata():
        if name == "x-goog-api-client":
            return _program(value)
    return ""


@lru_cache(maxsize=256)
def _program(header: str) -> str:
    words = header.split()
    return " ".join(word for word in words if word.partition("/")[0] not in LIBRARIES)
