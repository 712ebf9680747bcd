"""The aggregations of a query: count, sum and average."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from nsps_local.firestore.names import check_field_name, field_path, invalid
from nsps_local.firestore.plan import Hit
from nsps_local.firestore.query import NAME, Path
from nsps_local.firestore.values import Value, lookup

MAX_AGGREGATIONS = 5


class Aggregation(NamedTuple):
    """One aggregation. `path`: the field that is summed or averaged; None: documents are counted.

    `up_to`: the most that a count says.
    """

    path: Path | None
    average: bool
    up_to: int | None

    def value(self, found: int, hits: Sequence[Hit]) -> Any:
        """The Value over the documents found; `hits` are needed where a field is read."""
        if self.path is None:
            return Value(integer_value=found if self.up_to is None else min(found, self.up_to))
        numbers: list[int | float] = []
        for hit in hits:
            value = lookup(hit.fields, self.path)
            kind = value.WhichOneof("value_type")
            if kind in ("integer_value", "double_value"):
                numbers.append(getattr(value, kind))
        if self.average and not numbers:
            return Value(null_value=0)
        total = sum(numbers)
        if self.average:
            return Value(double_value=total / len(numbers))
        if isinstance(total, int) and -(2**63) <= total < 2**63:
            return Value(integer_value=total)
        return Value(double_value=float(total))


def read_aggregations(parts: Sequence[Any]) -> dict[str, Aggregation]:
    """The aggregations of a StructuredAggregationQuery by alias. Raises Refused."""
    if not parts:
        raise invalid("Aggregations can not be empty.")
    if len(parts) > MAX_AGGREGATIONS:
        raise invalid(
            f"The maximum number of aggregations in a query is {MAX_AGGREGATIONS}; "
            f"it has {len(parts)}."
        )
    found: dict[str, Aggregation] = {}
    numbers = count(1)
    for part in parts:
        alias = part.alias or f"field_{next(numbers)}"
        check_field_name(alias)
        if alias in found:
            raise invalid(f"Aggregation aliases contain duplicate alias: {alias}.")
        found[alias] = _read(part)
    return found


def _read(part: Any) -> Aggregation:
    kind = part.WhichOneof("operator")
    if kind == "count":
        up_to = part.count.up_to.value if part.count.HasField("up_to") else None
        if up_to is not None and up_to < 0:
            raise invalid("The `up_to` value of a COUNT must be greater than or equal to zero.")
        return Aggregation(None, average=False, up_to=up_to)
    if kind not in ("sum", "avg"):
        raise invalid("An aggregation is neither count nor sum nor avg.")
    path = field_path(getattr(part, kind).field.field_path)
    if path == NAME:
        raise invalid("Aggregations are not supported for the property: __name__.")
    return Aggregation(path, average=kind == "avg", up_to=None)
