"""What the local stack's secrets hold: given by a file, or made up once and kept in the state."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nsps_local.stack.errors import CannotStart


def read_given(path: Path | None) -> dict[str, str]:
    """Values from --secrets FILE: {"name": text or JSON object}. Raises CannotStart."""
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CannotStart(f"--secrets {path}: cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise CannotStart(f'--secrets {path}: write one JSON object, {{"name": value, ...}}')
    return {name: _text(value) for name, value in document.items()}


def values_for(
    names: Iterable[str], given: Mapping[str, str], kept: Path, made_up: Mapping[str, str]
) -> dict[str, str]:
    """A value for every secret: given, else kept from last time, else ``made_up``, else random.

    What is used is kept in ``kept`` (mode 0600), so that a second start has the same values.
    """
    before = json.loads(kept.read_text()) if kept.exists() else {}
    values = {}
    for name in names:
        first = given.get(name) or before.get(name) or made_up.get(name)
        values[name] = first or secrets.token_urlsafe(24)
    write_private(kept, json.dumps({**before, **values}, indent=1))
    return values


def webhook_credential(method: str) -> str:
    """A made-up credential for ESPF's webhooks."""
    word = secrets.token_urlsafe(18)
    made: dict[str, dict[str, str]] = {
        "basic": {"user": "espf", "password": word},
        "custom": {"type": "Plain", "credentials": word},
        "signature": {"key_id": "espf", "key": word},
    }
    return json.dumps(made[method])


def api_credential() -> str:
    """A made-up PortaBilling user for the sandbox."""
    return json.dumps({"login": "nsps", "password": secrets.token_urlsafe(18)})


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    temporary = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
