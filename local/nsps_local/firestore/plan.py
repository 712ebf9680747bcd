"""How a query finds its documents: by ranges of indexes, or by scanning a small collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from nsps_local.firestore.names import Key, key_of
from nsps_local.firestore.query import (
    EXCLUSIONS,
    NAME,
    NEVER,
    RANGES,
    Conjunction,
    Query,
    Term,
    matches,
)
from nsps_local.firestore.store import Record, Shape, Span, Store
from nsps_local.firestore.values import TYPE_END, Document, descending, id_key, path_of

SCAN_LIMIT = 200
"""Collections up to this many documents are scanned rather than indexed."""
_END = b"\xff"
"""Behind a key: greater than everything that begins with it."""


class Hit(NamedTuple):
    """A document found; hits sort by `order_key`."""

    order_key: bytes
    key: Key
    record: Record
    fields: Any


class Route(NamedTuple):
    """The range of an index that holds a disjunct's documents, in the query's order.

    `exact`: it holds no others.
    """

    shape: Shape
    parent: str
    low: bytes
    high: bytes
    backwards: bool
    exact: bool


def run(store: Store, query: Query) -> list[Hit]:
    """The documents that match now, in order."""
    want = None if query.limit is None else query.offset + query.limit
    if query.limit == 0:
        return []
    return _slice(query, _find(store, query, want))


def run_at(store: Store, query: Query, time: int) -> list[Hit]:
    """The documents that matched at `time`, which history still knows."""
    past = {key: record for key, record in store.history.since(time).items() if query.covers(key)}
    if not past:
        return run(store, query)
    hits = [hit for hit in _find(store, query, None) if hit.key not in past]
    before = ((key, record) for key, record in past.items() if record is not None)
    return _slice(query, sorted(hits + list(_matching(query, query.disjuncts, before))))


def children(store: Store, db: int, path: str, time: int) -> set[str]:
    """What was directly below a path at `time`, as Store.children()."""
    past = {key: was for key, was in store.history.since(time).items() if key.db == db}
    if not past:
        return store.children(db, path)
    there = {key for key, was in past.items() if was is not None}
    there.update(key for key in store.keys(db) if key not in past)
    start = f"{path}/" if path else ""
    parents = (key.parent for key in there if key.parent.startswith(start))
    return {parent[len(start) :].partition("/")[0] for parent in parents}


def count(store: Store, query: Query, up_to: int | None) -> int:
    """How many documents match, at most `up_to`; without reading them where an index tells."""
    spans = _countable(store, query)
    if spans is not None:
        found = max(0, sum(map(store.span_size, spans)) - query.offset)
        found = found if query.limit is None else min(found, query.limit)
    elif query.collection is not None and _everything(query):
        found = max(0, store.collection_size(query.db, query.collection) - query.offset)
    else:
        found = len(run(store, query))
    return found if up_to is None else min(found, up_to)


def _everything(query: Query) -> bool:
    return (
        query.disjuncts == ((),)
        and query.order in (((NAME, False),), ((NAME, True),))
        and query.start is None
        and query.end is None
        and query.limit is None
    )


def _countable(store: Store, query: Query) -> list[Span] | None:
    """Ranges of indexes that hold what matches and nothing else, each document once."""
    if not query.group or not query.disjuncts or (query.descendants and query.parent):
        return None
    if len(query.disjuncts) > 1 and not _apart(query.disjuncts):
        return None
    routes = [_route(query, terms) for terms in query.disjuncts]
    exact = [route for route in routes if route is not None and route.exact]
    if len(exact) < len(routes) or not _worth_it(store, query, exact):
        return None
    spans = [span for route in exact if (span := _span(store, query, route)) is not None]
    return spans if len(spans) == len(routes) else None


def _apart(disjuncts: Iterable[Conjunction]) -> bool:
    """Whether no document can match two of them: each says of one field another value."""
    values = [{term.path: term.key for term in terms if term.op == "=="} for terms in disjuncts]
    common = set.intersection(*(set(each) for each in values))
    return any(len({each[path] for each in values}) == len(values) for path in common)


def _slice(query: Query, hits: list[Hit]) -> list[Hit]:
    end = None if query.limit is None else query.offset + query.limit
    return hits[query.offset : end]


def _find(store: Store, query: Query, want: int | None) -> list[Hit]:
    """At least the first `want` matches, in order."""
    disjuncts = [terms for terms in query.disjuncts if not any(term.op == NEVER for term in terms)]
    if any(term.path == NAME and term.op == "==" for terms in disjuncts for term in terms):
        found = _by_name(store, query, disjuncts)
        if found is not None:
            return found
    spans = _spans(store, query, disjuncts)
    if spans is None:
        return _scan(store, query, want)
    if len(spans) == 1:
        terms, span, backwards = spans[0]
        return _first(_matching(query, [terms], store.span(span, backwards)), want)
    found_by_key: dict[Key, Hit] = {}
    for terms, span, backwards in spans:
        hits = _first(_matching(query, [terms], store.span(span, backwards)), want)
        found_by_key.update((hit.key, hit) for hit in hits)
    return sorted(found_by_key.values())


def _by_name(store: Store, query: Query, disjuncts: list[Conjunction]) -> list[Hit] | None:
    """Where every disjunct names its document: look them up."""
    names = {
        term.key for terms in disjuncts for term in terms if term.path == NAME and term.op == "=="
    }
    if not all(any(t.path == NAME and t.op == "==" for t in terms) for terms in disjuncts):
        return None
    keys = [key_of(query.db, path_of(name)) for name in names]
    rows = ((key, record) for key in keys if (record := store.get(key)) and query.covers(key))
    return sorted(_matching(query, disjuncts, rows))


def _first(hits: Iterator[Hit], want: int | None) -> list[Hit]:
    return list(islice(hits, want))


def _matching(
    query: Query, disjuncts: Iterable[Conjunction], rows: Iterable[tuple[Key, Record]]
) -> Iterator[Hit]:
    for key, record in rows:
        fields = Document.FromString(record.data).fields
        if not any(matches(terms, key, fields) for terms in disjuncts):
            continue
        order_key = query.order_key(key, fields)
        if order_key is not None and query.between(order_key) and query.covers(key):
            yield Hit(order_key, key, record, fields)


def _scan(store: Store, query: Query, want: int | None) -> list[Hit]:
    if query.collection is None:
        rows = store.group(query.db, query.group)
        return sorted(_matching(query, query.disjuncts, rows))
    by_name = query.order[0][0] == NAME
    low, high = _ids(query, query.collection)
    backwards = by_name and query.order[0][1]
    rows = store.collection(query.db, query.collection, low, high, backwards)
    hits = _matching(query, query.disjuncts, rows)
    return _first(hits, want) if by_name else sorted(hits)


def _ids(query: Query, collection: str) -> tuple[str, str | None]:
    """The ids between which all matches of a query ordered by name alone lie."""
    (path, down), *more = query.order
    if path != NAME or more:
        return "", None
    lows: list[str] = []
    highs: list[str] = []
    for cursor, first in ((query.start, True), (query.end, False)):
        if cursor is not None and cursor.key:
            name = descending(cursor.key) if down else cursor.key
            (lows if first != down else highs).append(path_of(name))
    for term in query.disjuncts[0] if len(query.disjuncts) == 1 else ():
        if term.path == NAME and term.op in RANGES:
            (lows if term.op[0] == ">" else highs).append(path_of(term.key))
    return (
        max(_directly_in(collection, lows), key=id_key, default=""),
        min(_directly_in(collection, highs), key=id_key, default=None),
    )


def _directly_in(collection: str, paths: Iterable[str]) -> Iterator[str]:
    """Of the paths in a collection, however deep, the ids of the documents of the collection."""
    start = f"{collection}/"
    return (path.removeprefix(start).partition("/")[0] for path in paths if path.startswith(start))


def _spans(
    store: Store, query: Query, disjuncts: list[Conjunction]
) -> list[tuple[Conjunction, Span, bool]] | None:
    """A range of an index for each disjunct, or None: scan."""
    if not query.group or len(disjuncts) == 0:
        return None if disjuncts else []
    routes = [_route(query, terms) for terms in disjuncts]
    if not _worth_it(store, query, [route for route in routes if route]):
        return None
    found = []
    for terms, route in zip(disjuncts, routes, strict=True):
        span = _span(store, query, route) if route else None
        if route is None or span is None:
            return None
        found.append((terms, span, route.backwards))
    return found


def _worth_it(store: Store, query: Query, routes: list[Route]) -> bool:
    if all(store.has_index(query.db, query.group, route.shape) for route in routes):
        return True
    return store.larger_than(query.db, query.group, query.collection, SCAN_LIMIT)


def _span(store: Store, query: Query, route: Route) -> Span | None:
    ix = store.index(query.db, query.group, route.shape)
    return None if ix is None else Span(ix, route.parent, route.low, route.high)


def _route(query: Query, terms: Conjunction) -> Route | None:
    """The index and range for one disjunct; None where scanning by name serves as well."""
    equal = {term.path: term.key for term in terms if term.op == "==" and term.path != NAME}
    contains = next((term for term in terms if term.op == "array-contains"), None)
    order = [(path, down) for path, down in query.order if path not in equal]
    if not equal and contains is None and order[0][0] == NAME and query.collection is not None:
        return None
    backwards = order[0][1]
    paths = tuple(sorted(equal))
    shape = Shape(
        group_wide=query.collection is None,
        equal=paths,
        contains=contains.path if contains else None,
        order=tuple((path, down != backwards) for path, down in order if path != NAME),
        name_descending=order[-1][1] != backwards,
    )
    head = b"".join(equal[path] for path in paths) + (contains.key if contains else b"")
    low, high = _bounds(head, [term for term in terms if term.path == order[0][0]])
    complete = len(order) == len(query.order)
    if complete:
        low, high = _cut(query, head, low, high, backwards)
    uncut = query.start is None and query.end is None
    exact = _exact(terms, order[0][0]) and (complete or uncut)
    return Route(shape, query.collection or "", low, high, backwards, exact)


def _exact(terms: Conjunction, first: tuple[str, ...]) -> bool:
    equal = [term.path for term in terms if term.op == "=="]
    return len(equal) == len(set(equal)) and all(
        (term.op == "==" and term.path != NAME)
        or term.op == "array-contains"
        or (term.op in RANGES and term.path == first)
        for term in terms
    )


def _bounds(head: bytes, terms: list[Term]) -> tuple[bytes, bytes]:
    """The range of an index in which the terms on its first ordered field hold."""
    low, high = head, head + _END
    for term in terms:
        if term.op in RANGES:
            kind = term.key[0]
            low = max(low, head + bytes([kind]))
            high = min(high, head + bytes([kind + TYPE_END]))
            at = head + term.key
            if term.op[0] == ">":
                low = max(low, at if term.op == ">=" else at + _END)
            else:
                high = min(high, at if term.op == "<" else at + _END)
        elif term.op in EXCLUSIONS:
            low = max(low, head + bytes([NULL_END]))
    return low, high


NULL_END = 11
"""The byte above every null's: an exclusion never finds null."""


def _cut(
    query: Query, head: bytes, low: bytes, high: bytes, backwards: bool
) -> tuple[bytes, bytes]:
    """The range within the query's cursors."""
    if query.start is not None:
        key = query.start.key
        if backwards:
            at = head + descending(key)
            high = min(high, at + _END if query.start.inclusive else at)
        else:
            low = max(low, head + key + (b"" if query.start.inclusive else _END))
    if query.end is not None:
        key = query.end.key
        if backwards:
            low = max(low, head + descending(key) + (b"" if query.end.inclusive else _END))
        else:
            high = min(high, head + key + (_END if query.end.inclusive else b""))
    return low, high
