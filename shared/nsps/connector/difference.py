"""What differs between the state that a resource should have and the one it has. Pure.

Secrets are compared by their value and shown as ``***``, wherever in a state they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nsps.connector.base import State
from nsps.runtime.redact import HIDDEN, Redactor, shortened
from nsps.runtime.secrets import SecretValue

MOST_SHOWN = 2000
"""Characters of one field's value, as JSON, that are kept for people."""


def changed(was: State, state: State) -> set[str]:
    """The fields that differ from ``was``, or that it does not have."""
    return {name for name, value in state.items() if not _same(was, name, value)}


def differences(was: State, fields: State, redactor: Redactor) -> dict[str, dict[str, Any]]:
    """{field: {"from": before, "to": after}} for people."""
    found = {}
    for name, value in fields.items():
        before = was.get(name)
        shown, to = _shown(name, masked(value), redactor)
        _, came_from = _shown(name, _masked_like(value, before), redactor)
        if (came_from, to) != (None, None):
            found[shown] = {"from": came_from, "to": to}
    return found


def shown(state: State, redactor: Redactor) -> dict[str, Any]:
    """The state for people: without its secrets, long values cut."""
    return dict(_shown(name, masked(value), redactor) for name, value in state.items())


def plain(value: Any) -> Any:
    """A value, or a state, with its secrets: for a digest and nothing else."""
    if isinstance(value, SecretValue):
        return value.reveal()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return value


def masked(value: Any) -> Any:
    """A value, or a state, without its secrets."""
    if isinstance(value, SecretValue):
        return HIDDEN
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if isinstance(value, Mapping):
        return {name: masked(item) for name, item in value.items()}
    return value


def _shown(name: str, value: Any, redactor: Redactor) -> tuple[str, Any]:
    ((field, kept),) = redactor.for_store({name: value}).items()
    text = json.dumps(kept, ensure_ascii=False)
    return field, kept if len(text) <= MOST_SHOWN else f"{shortened(text, MOST_SHOWN)}... (cut)"


def _same(was: State, name: str, value: Any) -> bool:
    return name in was and bool(plain(was[name]) == plain(value))


def _masked_like(wanted: Any, was: Any) -> Any:
    """What a system returned, masked where we know of a secret: it may return that as text."""
    if was is None or not _holds_secret(wanted):
        return masked(was)
    if isinstance(wanted, Mapping) and isinstance(was, Mapping):
        return {name: _masked_like(wanted.get(name, _SECRET), each) for name, each in was.items()}
    both_lists = isinstance(wanted, list | tuple) and isinstance(was, list | tuple)
    if both_lists and len(wanted) == len(was):
        return [_masked_like(*pair) for pair in zip(wanted, was, strict=True)]
    return HIDDEN  # of another shape: the secret may be anywhere in it


_SECRET = SecretValue(HIDDEN, "unknown")


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_secret(each) for each in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_secret(each) for each in value)
    return isinstance(value, SecretValue)
