"""Checks recorded inputs against the argument classes of pulumi-gcp, at every depth.

Pulumi's runtime accepts wrong scalar types, and any key in a nested literal; the provider that
would refuse them is not there until a deployment.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nsps_local.recording import Resource
from pulumi import _types

_SCALARS = {str: (str,), int: (int,), float: (int, float), bool: (bool,)}


def faults(resource: Resource) -> list[str]:
    """Unknown keys, wrong types and missing required inputs of one resource."""
    shown = f"{resource.type.rpartition(':')[2]} {resource.name}"
    return [f"{shown}{text}" for text in _object(resource.inputs, _arguments(resource.type), "")]


def _arguments(token: str) -> type:
    _, path, name = token.split(":")
    module, _, file = path.partition("/")
    package = importlib.import_module(f"pulumi_gcp.{module}")
    for found in pkgutil.iter_modules(package.__path__):
        if found.name.replace("_", "") == file.lower():
            members = vars(importlib.import_module(f"{package.__name__}.{found.name}"))
            return typing.cast(type, members.get(f"{name}InitArgs") or members[f"{name}Args"])
    raise LookupError(f"pulumi_gcp.{module} has no file for {file}")


def _object(value: Any, expected: type, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where}: {value!r} is not {expected.__name__}"
        return
    types = _types.input_type_types(expected)
    names = _types.input_type_py_to_pulumi_names(expected)
    for key, entry in value.items():
        if key not in types:
            yield f"{where}.{key}: unknown"
        else:
            yield from _value(entry, types[key], f"{where}.{key}")
    for name, parameter in inspect.signature(expected).parameters.items():
        required = parameter.default is inspect.Parameter.empty and name in names
        if required and names[name] not in value:
            yield f"{where}.{names[name]}: missing"


def _value(value: Any, expected: Any, where: str) -> Iterator[str]:
    expected = _types.unwrap_type(expected)
    origin = typing.get_origin(expected)
    if expected in _SCALARS:
        wrong_bool = isinstance(value, bool) and expected is not bool
        if wrong_bool or not isinstance(value, _SCALARS[expected]):
            yield f"{where}: {value!r} is not {expected.__name__}"
    elif origin is not None and _is(origin, Mapping):
        for key, entry in value.items():
            yield from _value(entry, typing.get_args(expected)[1], f"{where}[{key}]")
    elif origin is not None and _is(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            yield f"{where}: {value!r} is not a list"
            return
        for index, entry in enumerate(value):
            yield from _value(entry, typing.get_args(expected)[0], f"{where}[{index}]")
    elif inspect.isclass(expected) and _types.is_input_type(expected):
        yield from _object(value, expected, where)


def _is(origin: Any, of: type) -> bool:
    return inspect.isclass(origin) and issubclass(origin, of)
