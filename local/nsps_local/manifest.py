"""A connector's manifest (``connector.yaml``): what it is, what it needs, how it may be set up.

Configurations are checked against it before anything starts, and the documents are printed from
it. The settings are those of the connector's ``settings_model``; the file does not repeat them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from nsps.connector.base import Connector, not_given, not_read
from nsps.connector.load import load_connector
from nsps.domain.snapshot import Block
from nsps.runtime.mistakes import Mistake, mistakes
from nsps.runtime.settings import CallSeconds, EventPattern, Kind, Tier
from nsps.transport.tls import TLS_SECRETS
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nsps_local.declared_settings import InvalidModel, Setting, declared, within, wrong

FILE = "connector.yaml"

ProvedRule = Literal["standard-tests", "read-back", "half-done", "real-system"]
TestId = Annotated[str, Field(pattern=r"^tests/[\w/]+\.py(::\w+)+$")]

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


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place. ``where``: the key below the thing checked, like settings.port.

    ``text`` says what is wrong and, after "write", what to do about it.
    """

    where: str
    text: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretNeed(_Part):
    """One secret of a connector; a handler names the Secret Manager secret that holds it."""

    description: str = Field(min_length=1)
    required: bool = True


class Quality(_Part):
    """How far a connector has come. ``tests``: rule -> FILE::TEST that proves that it is kept.

    ``nsps_testing.quality`` checks that the tier is earned.
    """

    tier: Tier
    tests: dict[ProvedRule, TestId] = {}


class Manifest(_Part):
    """``connector.yaml``. ``system``: what it provisions, if ``title`` does not say. ``tested``:
    what its tests ran against, each with its version and origin, or "a double of ...".
    ``rate``: calls a second that the system takes, if it says so.
    ``call_timeout_seconds``: what a handler gets for one call unless it says otherwise.

    ``kind`` is one kind, or the list of those that the connector can be (the first is what a
    handler gets that does not say). ``requires``: the blocks of pb_data it needs, whatever else a
    handler requires. ``passes_on``: for a connector that needs none itself, the blocks that a
    handler gets that does not say. ``groups``: the
    ESPF group or groups it usually reports to. ``reads_again``: its events may have to go through
    enrichment again before they are delivered, so its function may publish them. ``receipts``: its
    system reports later what became of a message, through the callbacks function. ``scheduled``:
    its function is called every minute. ``tls``: it
    speaks through the kit's HTTP or TCP, so a handler may have the secrets of ``TLS_SECRETS``.
    """

    connector: str = Field(pattern=r"^[a-z][a-z0-9_]{1,40}$")
    title: str = Field(min_length=1)
    kind: tuple[Kind, ...] = Field(min_length=1)
    summary: str = Field(min_length=1)
    system: str | None = Field(default=None, min_length=1)
    tested: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    events: tuple[EventPattern, ...] = Field(min_length=1)
    requires: tuple[Block, ...] = ()
    passes_on: tuple[Block, ...] = ()
    groups: tuple[str, ...] = ()
    call_timeout_seconds: CallSeconds = 15.0
    secrets: dict[str, SecretNeed] = {}
    rate: float | None = Field(default=None, gt=0)
    reads_again: bool = False
    receipts: bool = False
    scheduled: bool = False
    tls: bool = False
    quality: Quality

    _connector: type[Connector[Any]] = PrivateAttr()
    _settings: Mapping[str, Setting] = PrivateAttr()
    _folder: str = PrivateAttr()

    @property
    def folder(self) -> str:
        """The folder in functions/connectors whose function serves it."""
        return self._folder

    def complete(self, settings: Mapping[str, object]) -> Mapping[str, object]:
        """A handler's settings as its function gets them."""
        return settings

    @property
    def of_system(self) -> str:
        """The system, as the documents name it."""
        return self.system or self.title

    @property
    def settings(self) -> Mapping[str, Setting]:
        """What a handler may set, by the connector's model."""
        return self._settings

    def of(self, connector: type[Connector[Any]], folder: str) -> Self:
        """This manifest, with the connector whose it is. Raises InvalidModel."""
        self._connector, self._settings = connector, declared(connector.settings_model)
        self._folder = folder
        return self

    @model_validator(mode="before")
    @classmethod
    def _with_tls_secrets(cls, content: Any) -> Any:
        if not (isinstance(content, dict) and content.get("tls") is True):
            return content
        added = {
            name: {"required": False, "description": what} for name, what in TLS_SECRETS.items()
        }
        return {**content, "secrets": {**(content.get("secrets") or {}), **added}}

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
        for mistake in wrong(self._connector.settings_model, settings):
            below = f".{mistake.where}" if mistake.path else ""
            yield Problem(f"settings{below}", self._explained(mistake))
        for name in secrets:
            if name not in self.secrets:
                yield Problem(
                    f"secrets.{name}",
                    f"the connector {self.connector} has no such secret: "
                    + one_of(name, self.secrets),
                )
        for name, need in self.secrets.items():
            if need.required and name not in secrets:
                yield Problem(
                    f"secrets.{name}",
                    f"missing; the connector {self.connector} needs it ({need.description}): "
                    "write the name of a secret in Secret Manager",
                )

    def not_read(
        self, settings: Mapping[str, object], requires: Container[str]
    ) -> Iterator[Problem]:
        """Settings without ``problems`` that need a block which the handler does not require."""
        model = self._connector.settings_model.model_validate(settings)
        for setting, what in not_read(self._connector, model, requires):
            yield Problem(f"settings.{setting}", what)

    def not_given(
        self, settings: Mapping[str, object], secrets: Container[str]
    ) -> Iterator[Problem]:
        """Secrets that settings without ``problems`` need, and that the handler does not name."""
        model = self._connector.settings_model.model_validate(settings)
        for name, what in not_given(self._connector, model, secrets):
            yield Problem(f"secrets.{name}", what)

    def _explained(self, mistake: Mistake) -> str:
        """What is wrong with a setting, what to write, and what the setting is."""
        name = str(mistake.path[0]) if mistake.path else ""
        setting = self._settings.get(name)
        if setting is None and len(mistake.path) < 2:
            return self._unknown(name) if name else mistake.what
        # Within a setting that is none of the handler's, but a description's that is shipped.
        what = setting.description.rstrip(".") if setting else ""
        if setting and mistake.kind == "missing" and len(mistake.path) == 1:
            return (
                f"missing; the connector {self.connector} needs it ({what}): "
                f"write {setting.how_to_write}"
            )
        place = within(self._connector.settings_model, mistake)
        if mistake.kind == "extra_forbidden":
            return f"{mistake.what}: {one_of(str(mistake.path[-1]), place.keys)}"
        own = f"{setting.how_to_write} ({what})" if setting else ""
        return mistake.text(place.description or own)

    def _unknown(self, name: str) -> str:
        if name in self.secrets:
            return (
                f"is a secret of the connector {self.connector}: "
                f"write the name of a Secret Manager secret under secrets.{name} instead"
            )
        return f"the connector {self.connector} has no such setting: {one_of(name, self._settings)}"


ManifestT = TypeVar("ManifestT", bound=Manifest)


class InvalidManifest(ValueError):
    """A manifest that cannot be used; the message names the file and every fault in it."""


def load(file: Path) -> Manifest:
    """The manifest in a ``connector.yaml``. Raises InvalidManifest."""
    return read(file, Manifest, file.parent)


def read(file: Path, model: type[ManifestT], folder: Path) -> ManifestT:
    """A manifest, for the connector in the folder. Raises InvalidManifest."""
    shown = f"{file.parent.name}/{file.name}"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidManifest(f"{shown}: cannot be read: {error}") from error
    name = file.parent.name if file.name == FILE else file.stem
    try:
        manifest = model.model_validate(content, context={"folder": name})
    except ValidationError as error:
        lines = [f"{shown}: {_fault(mistake)}" for mistake in mistakes(error)]
        raise InvalidManifest("\n".join(lines)) from error
    shown = f"{folder.name}/connector.py"
    try:
        return manifest.of(load_connector(folder), folder.name)
    except InvalidModel as error:
        lines = [f"{shown}: {line}" for line in str(error).splitlines()]
        raise InvalidManifest("\n".join(lines)) from error
    except Exception as error:  # whatever the connector's module does when it is imported
        raise InvalidManifest(f"{shown}: cannot be loaded: {error}") from error


def _fault(mistake: Mistake) -> str:
    if mistake.where == "settings":
        return "settings: not written here: describe them in the connector's settings_model"
    return str(mistake)


def one_of(written: str, possible: Sequence[str] | Mapping[str, object]) -> str:
    """ "write ...": the likeliest of the possible names, or all of them, or nothing at all."""
    close = get_close_matches(written, possible, n=1)
    if close:
        return f"write {close[0]}"
    return f"write one of {', '.join(possible)}" if possible else "write nothing here"
