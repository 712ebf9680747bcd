"""A connector's manifest (``connector.yaml``): what it is, what it needs, how it may be set up.

The manifest is the one description of a connector's settings and secrets: configurations are
checked against it before anything starts, and the documents are printed from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from nsps.runtime.settings import Block, CallSeconds, EventPattern, Kind, Tier
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

FILE = "connector.yaml"

SettingType = Literal["text", "number", "boolean", "list", "map", "choice"]

PREDEFINED_GROUPS = (
    "VoIP",
    "HSS",
    "PCRF",
    "IPTV",
    "WiMAX",
    "Netaccess",
    "NumberPortability",
    "LawfulInterception",
)
"""ESPF's own service groups; any other must be registered there (POST /espf/v1/group/create)."""

_EXPECTED: dict[SettingType, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "map": (dict,),
    "choice": (str,),
}
_HOW_TO_WRITE: dict[SettingType, str] = {
    "text": "a text",
    "number": "a number without quotes",
    "boolean": "true or false",
    "list": "a list, [one, two]",
    "map": "a map, {name: value}",
    "choice": "one of the choices",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place. ``where``: the key below the thing checked, like settings.port.

    ``text`` says what is wrong and, after "write", what to do about it.
    """

    where: str
    text: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(_Part):
    """One setting of a connector, as a handler may give it."""

    type: SettingType
    description: str = Field(min_length=1)
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Setting:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("`choices` go with type choice: write both or neither")
        if self.required and self.default is not None:
            raise ValueError("a required setting has no default: write one of the two")
        if self.default is not None and (trouble := self.trouble(self.default)):
            raise ValueError(f"the default {trouble}")
        return self

    def trouble(self, value: object) -> str | None:
        """What is wrong with a value of this setting, and what to write; None if it is well."""
        expected = _EXPECTED[self.type]
        if not isinstance(value, expected) or (bool not in expected and isinstance(value, bool)):
            return f"is {_described(value)}: write {self.how_to_write}"
        if self.choices and value not in self.choices:
            return f"is {value!r}: write {self.how_to_write}"
        return None

    @property
    def how_to_write(self) -> str:
        """How a value of this setting looks."""
        return f"one of {', '.join(self.choices)}" if self.choices else _HOW_TO_WRITE[self.type]


class SecretNeed(_Part):
    """One secret of a connector; a handler names the Secret Manager secret that holds it."""

    description: str = Field(min_length=1)
    required: bool = True


class Quality(_Part):
    """How far a connector has come: the tier, and the names of the rules it keeps."""

    tier: Tier
    rules: tuple[str, ...] = ()


class Manifest(_Part):
    """``connector.yaml``. ``rate``: calls a second that the system takes, if it says so.
    ``call_timeout_seconds``: what a handler gets for one call unless it says otherwise.

    ``kind`` is one kind, or the list of those that the connector can be (the first is what a
    handler gets that does not say). ``requires``: the blocks of pb_data it needs, whatever else a
    handler requires. ``passes_on``: for a connector that needs none itself, the blocks that a
    handler gets that does not say. ``groups``: the
    ESPF group or groups it usually reports to. ``reads_again``: its events may have to go through
    enrichment again before they are delivered, so its function may publish them.
    """

    connector: str = Field(pattern=r"^[a-z][a-z0-9_]{1,40}$")
    title: str = Field(min_length=1)
    kind: tuple[Kind, ...] = Field(min_length=1)
    summary: str = Field(min_length=1)
    events: tuple[EventPattern, ...] = Field(min_length=1)
    requires: tuple[Block, ...] = ()
    passes_on: tuple[Block, ...] = ()
    groups: tuple[str, ...] = ()
    call_timeout_seconds: CallSeconds = 15.0
    settings: dict[str, Setting] = {}
    secrets: dict[str, SecretNeed] = {}
    rate: float | None = Field(default=None, gt=0)
    reads_again: bool = False
    quality: Quality

    @field_validator("kind", "groups", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if value is None:
            return []
        return [value] if isinstance(value, str) else value

    @field_validator("connector")
    @classmethod
    def _named_as_folder(cls, value: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder", value)
        if folder != value:
            raise ValueError(f"the connector lies in the folder {folder}: write {folder}")
        return value

    def blocks(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        """The blocks that a handler gets. ``asked``: its own list; None: it has none."""
        return tuple(dict.fromkeys([*self.requires, *(self.passes_on if asked is None else asked)]))

    def problems(
        self, settings: Mapping[str, object], secrets: Mapping[str, str]
    ) -> Iterator[Problem]:
        """What is wrong with a handler's settings and secrets, everything at once.

        ``secrets``: the connector's name of the secret -> the name in Secret Manager.
        """
        yield from self._unknown(settings, secrets)
        for name, setting in self.settings.items():
            if name in settings:
                if trouble := setting.trouble(settings[name]):
                    yield Problem(f"settings.{name}", trouble)
            elif setting.required:
                yield Problem(
                    f"settings.{name}",
                    f"missing; the connector {self.connector} needs it ({setting.description}): "
                    f"write {setting.how_to_write}",
                )
        for name, need in self.secrets.items():
            if need.required and name not in secrets:
                yield Problem(
                    f"secrets.{name}",
                    f"missing; the connector {self.connector} needs it ({need.description}): "
                    "write the name of a secret in Secret Manager",
                )

    def _unknown(
        self, settings: Mapping[str, object], secrets: Mapping[str, str]
    ) -> Iterator[Problem]:
        for name in settings:
            if name in self.settings:
                continue
            if name in self.secrets:
                yield Problem(
                    f"settings.{name}",
                    f"is a secret of the connector {self.connector}: "
                    f"write the name of a Secret Manager secret under secrets.{name} instead",
                )
            else:
                yield Problem(
                    f"settings.{name}",
                    f"the connector {self.connector} has no such setting: "
                    + one_of(name, self.settings),
                )
        for name in secrets:
            if name not in self.secrets:
                yield Problem(
                    f"secrets.{name}",
                    f"the connector {self.connector} has no such secret: "
                    + one_of(name, self.secrets),
                )

    def complete(self, settings: Mapping[str, object]) -> dict[str, object]:
        """The settings with the manifest's defaults where a handler says nothing."""
        defaults = {
            name: setting.default
            for name, setting in self.settings.items()
            if setting.default is not None
        }
        return {**defaults, **settings}


class InvalidManifest(ValueError):
    """A manifest that cannot be used; the message names the file and every fault in it."""


def load(file: Path) -> Manifest:
    """The manifest in a ``connector.yaml``. Raises InvalidManifest."""
    shown = f"{file.parent.name}/{file.name}"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidManifest(f"{shown}: cannot be read: {error}") from error
    try:
        return Manifest.model_validate(content, context={"folder": file.parent.name})
    except ValidationError as error:
        lines = [
            f"{shown}: {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidManifest("\n".join(lines)) from error


def one_of(written: str, possible: Sequence[str] | Mapping[str, object]) -> str:
    """ "write ...": the likeliest of the possible names, or all of them, or nothing at all."""
    close = get_close_matches(written, possible, n=1)
    if close:
        return f"write {close[0]}"
    return f"write one of {', '.join(possible)}" if possible else "write nothing here"


def _described(value: object) -> str:
    if value is None:
        return "empty"
    named = {str: "a text", bool: "true/false", int: "a number", float: "a number"}
    named |= {list: "a list", dict: "a map"}
    return named.get(type(value), type(value).__name__)
