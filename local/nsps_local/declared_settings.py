"""A connector's settings as its model declares them: for the documents, and to check a handler's.

Names, types, choices, defaults and descriptions come from the connector's ``settings_model``; they
are written nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from nsps.runtime.mistakes import Mistake, mistakes
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

Schema = Mapping[str, Any]

_TYPES = {
    "string": "text",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "array": "list",
    "object": "map",
}
"""The types of JSON Schema -> what the documents call them."""

_HOW_TO_WRITE = {
    "text": "a text",
    "number": "a number without quotes",
    "boolean": "true or false",
    "list": "a list, [one, two]",
    "map": "a map, {name: value}",
}


class InvalidModel(ValueError):
    """A settings model that cannot be shown to people; one line for each fault."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``types``: what it may be; with ``choices`` it is one of them."""

    types: tuple[str, ...]
    choices: tuple[str, ...]
    required: bool
    default: Any
    description: str

    @property
    def how_to_write(self) -> str:
        """How a value of this setting looks."""
        forms = [_HOW_TO_WRITE[kind] for kind in self.types]
        return " or ".join([f"one of {', '.join(self.choices)}"] if self.choices else forms)


def declared(model: type[BaseModel]) -> dict[str, Setting]:
    """The settings of a model. Raises InvalidModel."""
    try:
        schema = model.model_json_schema(by_alias=False)
    except PydanticInvalidForJsonSchema as error:
        raise InvalidModel(f"{model.__name__}: no form in YAML: {error.message}") from None
    faults = [
        f'{model.__name__}.{name}: has no description: write Field(description="...")'
        for name, field in model.model_fields.items()
        if not (field.description or "").strip()
    ]
    if model.model_config.get("extra") != "forbid":
        faults.append(
            f"{model.__name__}: takes settings that it does not know: "
            'write model_config = ConfigDict(extra="forbid")'
        )
    if faults:
        raise InvalidModel("\n".join(faults))
    return {name: _setting(model, name, schema) for name in model.model_fields}


def wrong(model: type[BaseModel], settings: Mapping[str, object]) -> list[Mistake]:
    """What the model does not take, everything at once, without conversions ("1" is no number)."""
    try:
        model.model_validate_json(json.dumps(settings, default=str), strict=True)
    except ValidationError as error:
        return mistakes(error)
    return []


@dataclass(frozen=True, slots=True)
class Within:
    """A place within a setting: what is written there (if a model says it), and its keys."""

    description: str = ""
    keys: tuple[str, ...] = ()


def within(model: type[BaseModel], mistake: Mistake) -> Within:
    """Where a mistake is, below the setting's own name, by the models that stand in the setting."""
    name, *path = mistake.path
    fields = _inner(model.model_fields[str(name)])
    description = ""
    for part in path:
        if isinstance(part, str) and part in fields:
            description = fields[part].description or ""
            fields = _inner(fields[part]) or fields
    return Within(description, tuple(fields))


def _inner(field: FieldInfo) -> dict[str, FieldInfo]:
    """The keys of the model that stands in a field: of a list's entries, of a map's values."""
    model = next(_models_in(field.annotation), None)
    fields = model.model_fields if model else {}
    return {each.alias or name: each for name, each in fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models_in(each)


def _setting(model: type[BaseModel], name: str, schema: Schema) -> Setting:
    field = model.model_fields[name]
    forms = list(_forms(schema["properties"][name], schema.get("$defs", {})))
    choices = [str(choice) for form in forms for choice in _choices(form)]
    only_choices = all(_choices(form) for form in forms)
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    return Setting(
        types=tuple(dict.fromkeys(_TYPES[form["type"]] for form in forms if "type" in form)),
        choices=tuple(choices) if only_choices else (),
        required=required,
        default=to_jsonable_python(default),
        description=field.description or "",
    )


def _forms(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The alternatives of a schema, without null."""
    if "$ref" in schema:
        yield from _forms(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        for each in alternatives:
            yield from _forms(each, definitions)
    elif schema.get("type") != "null":
        yield schema


def _choices(form: Schema) -> list[Any]:
    return [form["const"]] if "const" in form else form.get("enum", [])
