"""Secrets and their versions, in one file that only its owner may read."""

from __future__ import annotations

import base64
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.cloud.secretmanager_v1.types import resources
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

Secret = resources.Secret.pb()
SecretVersion = resources.SecretVersion.pb()
FORMAT = 1


@dataclass(slots=True)
class Version:
    """A version and its payload (None once destroyed; not part of any repr)."""

    meta: Any
    payload: bytes | None = field(repr=False)


@dataclass(slots=True)
class Entry:
    """A secret and its versions, of which number n is at n - 1."""

    meta: Any
    versions: list[Version] = field(default_factory=list)


class Store:
    """`secrets`: the entries by full name. Call save() after each change, before it is answered."""

    def __init__(self, state: Path) -> None:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = state / "secrets.json"
        self._lock = (state / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"Another server uses the state directory {state}.") from None
        self.secrets: dict[str, Entry] = {}
        if self._path.exists():
            self._load()

    def close(self) -> None:
        self._lock.close()

    def _load(self) -> None:
        try:
            kept = json.loads(self._path.read_text())
            if kept["format"] != FORMAT:
                raise ValueError(f"format {kept['format']}, not {FORMAT}")
            self.secrets = {name: _entry(entry) for name, entry in kept["secrets"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, ParseError) as error:
            self.close()
            # The error's text could quote a secret: its kind is enough.
            raise ValueError(
                f"{self._path} is not a file of this server ({type(error).__name__}): "
                "restore it or remove it."
            ) from None

    def save(self) -> None:
        """Write everything; whole or not at all, readable by the owner alone."""
        kept = {
            "format": FORMAT,
            "secrets": {name: _kept(entry) for name, entry in self.secrets.items()},
        }
        draft = self._path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(kept, file)
        draft.replace(self._path)


def _kept(entry: Entry) -> dict[str, Any]:
    return {
        "secret": MessageToDict(entry.meta),
        "versions": [
            {
                "version": MessageToDict(version.meta),
                "payload": None
                if version.payload is None
                else base64.b64encode(version.payload).decode(),
            }
            for version in entry.versions
        ],
    }


def _entry(kept: dict[str, Any]) -> Entry:
    versions = [
        Version(
            ParseDict(version["version"], SecretVersion()),
            None if version["payload"] is None else base64.b64decode(version["payload"]),
        )
        for version in kept["versions"]
    ]
    return Entry(ParseDict(kept["secret"], Secret()), versions)
