"""What a Write does to a document: preconditions, masks, transforms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import grpc
from google.cloud.firestore_v1.types import write as write_types

from nsps_local.firestore.clock import MICRO, micros, timestamp
from nsps_local.firestore.names import check_field_name, field_path, invalid
from nsps_local.firestore.store import Record
from nsps_local.firestore.values import Document, Value, check_fields, check_size, lookup, sort_key
from nsps_local.grpc_server import Refused

REQUEST_TIME = write_types.DocumentTransform.FieldTransform.ServerValue.REQUEST_TIME
_MAX_INTEGER = 2**63 - 1


class Effect(NamedTuple):
    """What a write makes of a document: its new data (None: gone), the transforms' results."""

    data: bytes | None
    results: list[Any]


def target(write: Any) -> str:
    """The resource name of the document a Write is about."""
    kind = write.WhichOneof("operation")
    if kind == "update":
        return str(write.update.name)
    if kind == "delete":
        return str(write.delete)
    if kind == "transform":
        return str(write.transform.document)
    raise invalid("A write is neither update nor delete nor transform.")


def check_precondition(write: Any, name: str, found: Record | None) -> None:
    """Refuse the write where its precondition does not hold for the document `found`."""
    condition = write.current_document
    kind = condition.WhichOneof("condition_type")
    if kind == "exists":
        if condition.exists and found is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"No document to update: {name}")
        if not condition.exists and found is not None:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Document already exists: {name}")
    elif kind == "update_time":
        if condition.update_time.nanos % 1000:
            raise invalid("An update_time cannot have more than microseconds precision.")
        if found is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"No document to update: {name}")
        wanted = micros(condition.update_time)
        if wanted > found.updated:
            raise invalid(
                f"Invalid base version ({wanted}), it is greater than the stored version "
                f"({found.updated}): {name}"
            )
        if found.updated != wanted:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the stored version ({found.updated}) does not match the required base version "
                f"({wanted})",
            )


def apply(write: Any, path: str, before: bytes | None, time: int) -> Effect:
    """The effect of a write at `time` on a document whose data is `before`. Raises Refused.

    The write is used up: its document is changed.
    """
    if write.WhichOneof("operation") == "delete":
        return Effect(None, [])
    check_fields(write.update.fields)
    transforms = write.update_transforms or write.transform.field_transforms
    if not write.HasField("update_mask") and not write.HasField("transform"):
        document = write.update
        for name in ("name", "create_time", "update_time"):
            document.ClearField(name)
    else:
        document = Document.FromString(before or b"")
        for mask in write.update_mask.field_paths:
            _merge(document.fields, write.update.fields, field_path(mask))
    results = [_transform(document.fields, part, time) for part in transforms]
    data = document.SerializeToString(deterministic=True)
    check_size(path, data)
    return Effect(data, results)


def _merge(into: Any, given: Any, path: tuple[str, ...]) -> None:
    value = lookup(given, path)
    if value is None:
        _remove(into, path)
    else:
        _place(into, path).CopyFrom(value)


def _place(fields: Any, path: tuple[str, ...]) -> Any:
    """The Value at a path, with the maps that lead there made where they are missing."""
    for name in path[:-1]:
        check_field_name(name)
        step = fields[name]
        if step.WhichOneof("value_type") != "map_value":
            step.Clear()
            step.map_value.SetInParent()
        fields = step.map_value.fields
    check_field_name(path[-1])
    return fields[path[-1]]


def _remove(fields: Any, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        if name not in fields or fields[name].WhichOneof("value_type") != "map_value":
            return
        fields = fields[name].map_value.fields
    fields.pop(path[-1], None)


def _transform(fields: Any, transform: Any, time: int) -> Any:
    path = field_path(transform.field_path)
    kind = transform.WhichOneof("transform_type")
    value = _place(fields, path)
    if kind == "set_to_server_value":
        if transform.set_to_server_value != REQUEST_TIME:
            raise invalid("The only server value is REQUEST_TIME.")
        value.Clear()
        value.timestamp_value.CopyFrom(timestamp(time - time % (MICRO // 1000)))
        return value
    if kind in ("append_missing_elements", "remove_all_from_array"):
        _change_array(value, kind, getattr(transform, kind).values)
        return Value(null_value=0)
    if kind not in _ARITHMETIC:
        raise invalid(f"The transform of {transform.field_path} is unknown.")
    operand = getattr(transform, kind)
    if not _is_number(operand):
        raise invalid(f"The transform of {transform.field_path} needs a number.")
    value.CopyFrom(_ARITHMETIC[kind](value, operand) if _is_number(value) else operand)
    return value


def _change_array(value: Any, kind: str, operands: Iterable[Any]) -> None:
    if value.WhichOneof("value_type") != "array_value":
        value.Clear()
        value.array_value.SetInParent()
    had = list(value.array_value.values)
    if kind == "remove_all_from_array":
        unwanted = {sort_key(part) for part in operands}
        kept = [part for part in had if sort_key(part) not in unwanted]
        value.CopyFrom(Value(array_value={"values": kept}))
        return
    known = {sort_key(part) for part in had}
    for part in operands:
        if part.WhichOneof("value_type") == "array_value":
            raise invalid("Cannot convert an array value in an array value.")
        if sort_key(part) not in known:
            known.add(sort_key(part))
            value.array_value.values.append(part)


def _is_number(value: Any) -> bool:
    return value.WhichOneof("value_type") in ("integer_value", "double_value")


def _number(value: Any) -> int | float:
    number: int | float = (
        value.integer_value
        if value.WhichOneof("value_type") == "integer_value"
        else value.double_value
    )
    return number


def _increment(value: Any, operand: Any) -> Any:
    total = _number(value) + _number(operand)
    if isinstance(total, float):
        return Value(double_value=total)
    return Value(integer_value=max(-_MAX_INTEGER - 1, min(_MAX_INTEGER, total)))


def _maximum(value: Any, operand: Any) -> Any:
    return _extreme(value, operand, greater=True)


def _minimum(value: Any, operand: Any) -> Any:
    return _extreme(value, operand, greater=False)


def _extreme(value: Any, operand: Any, *, greater: bool) -> Any:
    """Of equal numbers the stored one stays, whatever its type; NaN wins."""
    for number in (value, operand):
        if math.isnan(_number(number)):
            return Value(double_value=math.nan)
    changes = _number(operand) > _number(value) if greater else _number(operand) < _number(value)
    return Value.FromString((operand if changes else value).SerializeToString())


_ARITHMETIC = {"increment": _increment, "maximum": _maximum, "minimum": _minimum}
