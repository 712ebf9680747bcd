"""What differs between the state that a resource should have and the one it has. Pure.

Secrets are compared by their value and shown as ``***``.
"""

from __future__ import annotations

from typing import Any

from nsps.connector.base import State
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretValue


def changed(was: State, state: State) -> set[str]:
    """The fields that differ from ``was``, or that it does not tell."""
    return {name for name, value in state.items() if not _same(was, name, value)}


def told(was: State, fields: State, redactor: Redactor) -> dict[str, Any]:
    """{field: [before, after]} for people."""
    before = {name: _masked_as(fields[name], was.get(name)) for name in fields}
    shown = redactor.for_store({"to": masked(fields), "from": masked(before)})
    pairs = {name: [shown["from"][name], shown["to"][name]] for name in fields}
    return {name: pair for name, pair in pairs.items() if pair != [None, None]}


def plain(state: State) -> dict[str, Any]:
    """The state with its secrets, for a digest and nothing else."""
    return {name: _plain_value(value) for name, value in state.items()}


def masked(state: State) -> dict[str, Any]:
    """The state without its secrets."""
    return {
        name: "***" if isinstance(value, SecretValue) else value for name, value in state.items()
    }


def _same(was: State, name: str, value: Any) -> bool:
    return name in was and _plain_value(was[name]) == _plain_value(value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, SecretValue):
        return value.reveal()
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    return value


def _masked_as(wanted: Any, was: Any) -> Any:
    """What a system tells of a field that we know for a secret is one too, though it is text."""
    return "***" if isinstance(wanted, SecretValue) and was is not None else was
