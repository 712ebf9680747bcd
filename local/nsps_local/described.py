"""Systems that need no connector of their own, only a description of them that is shipped.

``functions/connectors/CONNECTOR/systems/NAME.yaml`` is a manifest with the settings of CONNECTOR
(``description``), in which ``<parameter>`` stands for what differs between deployments. A handler
names it as its connector, and gives the parameters and what else it wants otherwise as settings;
its function gets the whole. A text that is a parameter alone takes the value with its type; a key
that is a map stands for its entries, which give way to those that follow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from nsps.connector.base import Connector
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nsps_local.declared_settings import Setting
from nsps_local.manifest import FILE, Manifest, Problem, load, read

SYSTEMS = "systems"
_PLACE = re.compile(r"<([a-z_]+)>")
_TYPES: Mapping[type, str] = {str: "text", int: "number", bool: "boolean", dict: "map"}


class Parameter(BaseModel):
    """What differs between deployments. One without a default is a text, and must be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(min_length=1)
    default: str | int | bool | dict[str, Any] | None = None

    @property
    def setting(self) -> Setting:
        """As a setting of a handler."""
        required = self.default is None
        kind = str if required else type(self.default)
        return Setting((_TYPES[kind],), (), required, self.default, self.description)


class Described(Manifest):
    """A system by a description: settings of the connector in whose folder it is."""

    parameters: dict[str, Parameter] = Field(default={})
    description: dict[str, Any]

    @model_validator(mode="after")
    def _places_are_parameters(self) -> Self:
        for name in _PLACE.findall(json.dumps(self.description)):
            if name not in self.parameters:
                raise ValueError(f"description: <{name}>: there is no such parameter: add it")
        return self

    def of(self, connector: type[Connector[Any]], folder: str) -> Self:
        """With the connector that is given the description. Raises InvalidModel."""
        super().of(connector, folder)
        left = {k: each for k, each in self._settings.items() if k not in self.description}
        own = {name: each.setting for name, each in self.parameters.items()}
        self._settings = {**left, **own}
        return self

    def complete(self, settings: Mapping[str, object]) -> Mapping[str, object]:
        """The description with the handler's parameters, and the handler's other settings."""
        values = {name: settings.get(name, each.default) for name, each in self.parameters.items()}
        others = {name: each for name, each in settings.items() if name not in values}
        return {**_filled(self.description, values), **others}

    def problems(
        self, settings: Mapping[str, object], secrets: Mapping[str, str]
    ) -> Iterator[Problem]:
        wrong = list(self._wrong_parameters(settings))
        yield from wrong or super().problems(self.complete(settings), secrets)

    def _wrong_parameters(self, settings: Mapping[str, object]) -> Iterator[Problem]:
        for name, each in self.parameters.items():
            setting = each.setting
            value = settings.get(name, each.default)
            if _TYPES.get(type(value)) not in setting.types:
                what = "missing" if value is None else f"not a {setting.types[0]}"
                text = f"{what}: write {setting.how_to_write} ({each.description.rstrip('.')})"
                yield Problem(f"settings.{name}", text)


def connectors_in(folder: Path) -> dict[str, Path]:
    """What a handler may name as its connector, and the file with its manifest."""
    own = {file.parent.name: file for file in folder.glob(f"*/{FILE}")}
    described = {file.stem: file for file in folder.glob(f"*/{SYSTEMS}/*.yaml")}
    return dict(sorted({**described, **own}.items()))


def load_connector_file(file: Path) -> Manifest:
    """One of ``connectors_in``. Raises InvalidManifest."""
    if file.name == FILE:
        return load(file)
    return read(file, Described, file.parents[1])


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, dict):
        made: dict[str, Any] = {}
        for name, each in template.items():
            key = _filled(name, values)
            made.update(key if isinstance(key, dict) else {key: _filled(each, values)})
        return made
    if isinstance(template, list):
        return [_filled(each, values) for each in template]
    if not isinstance(template, str):
        return template
    whole = _PLACE.fullmatch(template)
    return values[whole[1]] if whole else _PLACE.sub(lambda it: str(values[it[1]]), template)
