"""A structured query: what it asks, checked, in the form the planner and the matcher need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import grpc
from google.cloud.firestore_v1.types import query as query_types

from nsps_local.firestore.names import Key, field_path, invalid, split_database
from nsps_local.firestore.values import NULL, Value, descending, lookup, path_key, sort_key
from nsps_local.grpc_server import Refused

StructuredQuery = query_types.StructuredQuery.pb()
FieldFilter = StructuredQuery.FieldFilter
UnaryFilter = StructuredQuery.UnaryFilter
MAX_DISJUNCTIONS = 30
MAX_INEQUALITIES = 10
MAX_COMPONENTS = 100

Path = tuple[str, ...]
NAME: Path = ("__name__",)

OPERATORS = {
    FieldFilter.LESS_THAN: "<",
    FieldFilter.LESS_THAN_OR_EQUAL: "<=",
    FieldFilter.GREATER_THAN: ">",
    FieldFilter.GREATER_THAN_OR_EQUAL: ">=",
    FieldFilter.EQUAL: "==",
    FieldFilter.NOT_EQUAL: "!=",
    FieldFilter.ARRAY_CONTAINS: "array-contains",
    FieldFilter.IN: "in",
    FieldFilter.ARRAY_CONTAINS_ANY: "array-contains-any",
    FieldFilter.NOT_IN: "not-in",
}
_NAN_KEY = sort_key(Value(double_value=float("nan")))
UNARY = {
    UnaryFilter.IS_NULL: ("==", NULL),
    UnaryFilter.IS_NOT_NULL: ("!=", NULL),
    UnaryFilter.IS_NAN: ("==", _NAN_KEY),
    UnaryFilter.IS_NOT_NAN: ("!=", _NAN_KEY),
}
RANGES = ("<", "<=", ">", ">=")
EXCLUSIONS = ("!=", "not-in")
NEVER = "never"
"""A comparison that nothing meets, as not-in a list with null."""


class Term(NamedTuple):
    """One comparison; `keys` are sort keys: several for not-in, else one."""

    path: Path
    op: str
    keys: tuple[bytes, ...]

    @property
    def key(self) -> bytes:
        return self.keys[0]


Conjunction = tuple[Term, ...]


class Cursor(NamedTuple):
    """`key` compares with the beginning of a document's order key; `inclusive` keeps equal ones."""

    key: bytes
    inclusive: bool


class Query(NamedTuple):
    """Which documents, in which order. `disjuncts` is the filter in disjunctive normal form.

    `parent` is the path of a document below the root ("": the root); `group` "" means every kind.
    `order` always ends with the document's name.
    """

    db: int
    root: str
    parent: str
    group: str
    descendants: bool = False
    disjuncts: tuple[Conjunction, ...] = ((),)
    order: tuple[tuple[Path, bool], ...] = ((NAME, False),)
    start: Cursor | None = None
    end: Cursor | None = None
    offset: int = 0
    limit: int | None = None
    fields: tuple[Path, ...] | None = None

    @property
    def collection(self) -> str | None:
        """The path of the one collection asked, None for a group or kind of several."""
        if self.descendants or not self.group:
            return None
        return f"{self.parent}/{self.group}" if self.parent else self.group

    def covers(self, key: Key) -> bool:
        """Whether a document lies where the query looks."""
        if key.db != self.db or (self.group and key.group != self.group):
            return False
        if self.collection is not None:
            return key.parent == self.collection
        if self.parent and not key.parent.startswith(f"{self.parent}/"):
            return False
        below = key.parent.count("/") - (self.parent.count("/") + 2 if self.parent else 0)
        return self.descendants or below == 0

    def order_key(self, key: Key, fields: Any) -> bytes | None:
        """The bytes that sort the document among the results; None where it lacks a field."""
        parts = []
        for path, down in self.order:
            if path == NAME:
                encoded = path_key(key.path)
            else:
                value = lookup(fields, path)
                if value is None:
                    return None
                encoded = sort_key(value)
            parts.append(descending(encoded) if down else encoded)
        return b"".join(parts)

    def between(self, order_key: bytes) -> bool:
        """Whether the document is within the cursors."""
        if self.start is not None and not _after(order_key, self.start):
            return False
        return self.end is None or not _past(order_key, self.end)


def _after(key: bytes, start: Cursor) -> bool:
    head = key[: len(start.key)]
    return head > start.key or (start.inclusive and head == start.key)


def _past(key: bytes, end: Cursor) -> bool:
    head = key[: len(end.key)]
    return head > end.key or (not end.inclusive and head == end.key)


def matches(terms: Conjunction, key: Key, fields: Any) -> bool:
    """Whether a document meets all terms."""
    return all(_meets(term, key, fields) for term in terms)


def _meets(term: Term, key: Key, fields: Any) -> bool:
    if term.path == NAME:
        return _compares(term, path_key(key.path))
    value = lookup(fields, term.path)
    if value is None:
        return False
    if term.op == "array-contains":
        return any(sort_key(part) == term.key for part in value.array_value.values)
    return _compares(term, sort_key(value))


def _compares(term: Term, found: bytes) -> bool:
    if term.op == "==":
        return found == term.key
    if term.op in EXCLUSIONS:
        return found != NULL and found not in term.keys
    if term.op == NEVER:
        return False
    return found[:1] == term.key[:1] and _RANGE_TESTS[term.op](found, term.key)


_RANGE_TESTS: dict[str, Callable[[bytes, bytes], bool]] = {
    "<": lambda found, key: found < key,
    "<=": lambda found, key: found <= key,
    ">": lambda found, key: found > key,
    ">=": lambda found, key: found >= key,
}


def parse(db: int, root: str, parent: str, query: Any, aggregated: Iterable[Path] = ()) -> Query:
    """A StructuredQuery below `parent` (a resource name in database `root`). Raises Refused.

    `aggregated`: the fields that are summed or averaged over what it finds.
    """
    if query.HasField("find_nearest"):
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "find_nearest is not part of this server.")
    sources = query.from_  # as the Python types call `from`
    if len(sources) > 1:
        raise invalid("A query selects from one collection or collection group.")
    database, path = split_database(parent)
    if database != root:
        raise invalid(f'The parent "{parent}" is not in the database "{root}".')
    _check_filters(query, below_document=bool(path))
    disjuncts = _disjuncts(query, root)
    _check_terms(disjuncts)
    order = _order(query, disjuncts, set(aggregated))
    if query.limit.value < 0 or query.offset < 0:
        raise invalid("limit is negative" if query.limit.value < 0 else "offset is negative")
    return Query(
        db=db,
        root=root,
        parent=path,
        group=sources[0].collection_id if sources else "",
        descendants=sources[0].all_descendants if sources else False,
        disjuncts=disjuncts,
        order=order,
        start=_cursor(query, "start_at", order, root),
        end=_cursor(query, "end_at", order, root),
        offset=query.offset,
        limit=query.limit.value if query.HasField("limit") else None,
        fields=_projection(query),
    )


def _projection(query: Any) -> tuple[Path, ...] | None:
    if not query.HasField("select"):
        return None
    paths = [field_path(field.field_path) for field in query.select.fields]
    return tuple(path for path in paths if path != NAME)


def _check_filters(query: Any, *, below_document: bool) -> None:
    """Refuse filters that production refuses whatever they compare."""
    filters = list(_filters(query.where)) if query.HasField("where") else []
    leaves = [each for each in filters if each.WhichOneof("filter_type") != "composite_filter"]
    components = len(leaves) + len(query.order_by) + below_document
    if components > MAX_COMPONENTS:
        raise invalid(
            f"The query may not have more than {MAX_COMPONENTS} filters + sort orders + ancestor "
            f"total; it has {components}."
        )
    operators = {each.field_filter.op for each in leaves}
    either = any(each.composite_filter.op == StructuredQuery.CompositeFilter.OR for each in filters)
    if FieldFilter.NOT_IN in operators and (
        either or operators & {FieldFilter.IN, FieldFilter.ARRAY_CONTAINS_ANY}
    ):
        raise invalid(
            "'NOT_IN' cannot be used in the same query with 'IN', 'ARRAY_CONTAINS_ANY' or 'OR'."
        )


def _filters(node: Any) -> Iterator[Any]:
    """A filter and all within it."""
    yield node
    for part in node.composite_filter.filters:
        yield from _filters(part)


def _disjuncts(query: Any, root: str) -> tuple[Conjunction, ...]:
    if not query.HasField("where"):
        return ((),)
    found = _normal(query.where, root)
    if len(found) > MAX_DISJUNCTIONS:
        raise invalid(
            f"The query has {len(found)} disjunctions when its OR, IN and ARRAY_CONTAINS_ANY are "
            f"multiplied out; the maximum is {MAX_DISJUNCTIONS}."
        )
    return tuple(dict.fromkeys(found))


def _normal(node: Any, root: str) -> list[Conjunction]:
    """Disjunctive normal form; at most a little over MAX_DISJUNCTIONS, so that none explodes."""
    kind = node.WhichOneof("filter_type")
    if kind == "composite_filter":
        parts = [_normal(part, root) for part in node.composite_filter.filters]
        if not parts:
            raise invalid("A composite filter has no filters.")
        if node.composite_filter.op == StructuredQuery.CompositeFilter.OR:
            return [terms for part in parts for terms in part]
        return _product(parts)
    if kind == "unary_filter":
        if node.unary_filter.op not in UNARY:
            raise invalid("A unary filter has an unknown operator.")
        op, key = UNARY[node.unary_filter.op]
        return [(Term(field_path(node.unary_filter.field.field_path), op, (key,)),)]
    if kind == "field_filter":
        return _field_terms(node.field_filter, root)
    raise invalid("A filter is empty.")


def _product(parts: list[list[Conjunction]]) -> list[Conjunction]:
    found: list[Conjunction] = [()]
    for part in parts:
        found = [left + right for left in found for right in part]
        if len(found) > MAX_DISJUNCTIONS * 100:
            raise invalid(f"The query has more than {MAX_DISJUNCTIONS} disjunctions.")
    return found


def _field_terms(node: Any, root: str) -> list[Conjunction]:
    path = field_path(node.field.field_path)
    op = OPERATORS.get(node.op)
    if op is None:
        raise invalid(f"The filter on {node.field.field_path} has an unknown operator.")
    if op in ("in", "array-contains-any", "not-in"):
        keys = _list_keys(node, path, op, root)
        if op == "not-in":
            return [(Term(path, NEVER if NULL in keys else op, keys),)]
        single = "==" if op == "in" else "array-contains"
        # null in a list finds nothing: only IS_NULL does.
        found = [Term(path, single, (key,)) for key in keys if key != NULL or op != "in"]
        return [(term,) for term in found or [Term(path, NEVER, keys)]]
    return [(Term(path, op, (_value_key(node.value, path, root),)),)]


def _list_keys(node: Any, path: Path, op: str, root: str) -> tuple[bytes, ...]:
    name = op.replace("-", "_").upper()
    if node.value.WhichOneof("value_type") != "array_value" or not node.value.array_value.values:
        raise invalid(f"'{name}' requires an non-empty ArrayValue.")
    values = node.value.array_value.values
    most = 10 if op == "not-in" else MAX_DISJUNCTIONS
    if len(values) > most:
        raise invalid(f"'{name}' supports up to {most} comparison values.")
    return tuple(dict.fromkeys(_value_key(value, path, root) for value in values))


def _value_key(value: Any, path: Path, root: str) -> bytes:
    if path != NAME:
        return sort_key(value)
    if value.WhichOneof("value_type") != "reference_value":
        raise invalid("__key__ filter value must be a Key: compare __name__ with a reference.")
    return _name_key(value.reference_value, root)


def _name_key(reference: str, root: str) -> bytes:
    database, path = split_database(reference)
    if database != root:
        raise invalid(f'The reference "{reference}" is not in the database "{root}".')
    return path_key(path)


def _check_terms(disjuncts: tuple[Conjunction, ...]) -> None:
    unequal = {term.path for terms in disjuncts for term in terms if term.op in RANGES + EXCLUSIONS}
    if len(unequal) > MAX_INEQUALITIES:
        raise invalid(
            f"A query may not have more than {MAX_INEQUALITIES} distinct inequality fields; "
            f"it has {len(unequal)}."
        )
    for terms in disjuncts:
        if sum(term.op == "array-contains" for term in terms) > 1:
            raise invalid("A maximum of 1 'ARRAY_CONTAINS' filter is allowed per disjunction.")
        if sum(term.op in EXCLUSIONS for term in terms) > 1:
            raise invalid(
                "Only a single 'NOT_EQUAL', 'NOT_IN', 'IS_NOT_NAN', or 'IS_NOT_NULL' filter "
                "allowed per query."
            )


def _order(
    query: Any, disjuncts: tuple[Conjunction, ...], aggregated: set[Path]
) -> tuple[tuple[Path, bool], ...]:
    """The explicit order, then fields of inequalities, then aggregated ones, then the name.

    Aggregated fields are read from the index, hence sort what they are summed over.
    """
    order = [
        (field_path(part.field.field_path), part.direction == StructuredQuery.DESCENDING)
        for part in query.order_by
    ]
    down = order[-1][1] if order else False
    listed = {path for path, _ in order}
    unequal = {term.path for terms in disjuncts for term in terms if term.op in RANGES + EXCLUSIONS}
    order += [(path, down) for path in sorted(unequal - listed - {NAME})]
    order += [(path, down) for path in sorted(aggregated - listed - unequal)]
    if NAME not in listed:
        return (*order, (NAME, down))
    end = [path for path, _ in order].index(NAME) + 1
    behind = sorted(".".join(path) for path, _ in order[end:] if path in aggregated)
    if behind:
        raise invalid(
            f"No index has fields [{', '.join(behind)}] after __name__: order by them too."
        )
    return tuple(order[:end])


def _cursor(
    query: Any, which: str, order: tuple[tuple[Path, bool], ...], root: str
) -> Cursor | None:
    if not query.HasField(which):
        return None
    cursor = getattr(query, which)
    if len(cursor.values) > len(order):
        raise invalid("Cursor has too many values.")
    key = b""
    for value, (path, down) in zip(cursor.values, order, strict=False):
        encoded = _value_key(value, path, root)
        key += descending(encoded) if down else encoded
    return Cursor(key, cursor.before == (which == "start_at"))
