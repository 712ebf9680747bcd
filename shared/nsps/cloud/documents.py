"""Firestore's documents on the wire: reads, queries by one field, and commits.

Google's client takes two to four times the processor time for the same calls, most of it in
message wrappers and copies. This sends the same bytes, made with the library's public message
types, over the library's authenticated channel, with the library's deadlines and retries. What no
event waits for (the console's queries, say) uses the client.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import grpc
from google.api_core.exceptions import from_grpc_error
from google.api_core.gapic_v1.client_info import ClientInfo
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.cloud.firestore import ArrayRemove, ArrayUnion, Client, Increment
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport
from google.protobuf.empty_pb2 import Empty
from grpc.experimental import ChannelOptions

COMPUTED = (ArrayRemove, ArrayUnion, Increment)
"""Values that the server computes from what it has."""


class Document(NamedTuple):
    """A document as it was read; ``fields`` is None if it is not there.

    ``version``: when it was updated last, as a protobuf Timestamp; False if it is not there.
    """

    path: str
    fields: dict[str, Any] | None
    version: Any
    read_time: datetime


class Write(NamedTuple):
    """Set these top-level fields and leave others.

    ``only_if``: the version that the document must have; None: any.
    """

    path: str
    fields: Mapping[str, Any]
    only_if: Any = None


class Transaction:
    """A transaction; it begins with its first read. ``first``: the id of the first try."""

    def __init__(self, first: bytes = b"") -> None:
        self.id = b""
        self._first = first

    def again(self) -> Transaction:
        """The next try of one that was aborted."""
        return Transaction(self._first or self.id)

    def choose(self, request: Any) -> None:
        """Make a request read in this transaction."""
        if self.id:
            request.transaction = self.id
        else:
            request.new_transaction.read_write.retry_transaction = self._first


class Documents:
    """The documents of a database. Calls raise google.api_core.exceptions.GoogleAPICallError."""

    def __init__(self, project: str, database: str) -> None:
        self._database = f"projects/{project}/databases/{database}"
        self._root = f"{self._database}/documents/"
        self._emulator = os.environ.get("FIRESTORE_EMULATOR_HOST")

    def get(self, paths: Iterable[str], tx: Transaction | None = None) -> list[Document]:
        """Each of these documents once, in any order."""
        request = GET.request(database=self._database, documents=[self._root + p for p in paths])
        if tx is not None:
            tx.choose(request)
        found = []
        for answer in self._channel.call(GET, request):
            if tx is not None:
                tx.id = tx.id or answer.transaction
            if answer.HasField("found"):
                found.append(self._document(answer.found, answer.read_time))
            elif answer.missing:
                path = answer.missing.removeprefix(self._root)
                found.append(Document(path, None, False, _time(answer.read_time)))
        return found

    def where(
        self, collection: str, field: str, value: Any, limit: int, tx: Transaction
    ) -> list[Document]:
        """The documents of a collection whose field has this value. ``limit`` 0: all of them."""
        parent, _, name = f"{self._root}{collection}".rpartition("/")
        request = QUERY.request(parent=parent)
        query = request.structured_query
        query.from_.add(collection_id=name)
        query.where.field_filter.field.field_path = _quoted(field)
        query.where.field_filter.op = types.StructuredQuery.FieldFilter.Operator.EQUAL
        encode(value, query.where.field_filter.value)
        if limit:
            query.limit.value = limit
        tx.choose(request)
        found = []
        for answer in self._channel.call(QUERY, request):
            tx.id = tx.id or answer.transaction
            if answer.HasField("document"):
                found.append(self._document(answer.document, answer.read_time))
        return found

    def commit(self, writes: Iterable[Write], tx: Transaction | None = None) -> list[Any]:
        """All writes or none; the update time of each as a protobuf Timestamp."""
        request = COMMIT.request(database=self._database, transaction=tx.id if tx else b"")
        for write in writes:
            _put(write, self._root, request.writes.add())
        return [each.update_time for each in self._channel.call(COMMIT, request).write_results]

    def roll_back(self, tx: Transaction) -> None:
        """Free what the transaction holds."""
        request = ROLLBACK.request(database=self._database, transaction=tx.id)
        self._channel.call(ROLLBACK, request)

    @cached_property
    def _channel(self) -> _Channel:
        return _Channel(self._database, self._emulator)  # not earlier: a process may fork till then

    def _document(self, document: Any, read_time: Any) -> Document:
        fields = {name: decode(value) for name, value in document.fields.items()}
        path = document.name.removeprefix(self._root)
        return Document(path, fields, document.update_time, _time(read_time))


_KINDS = {
    bool: "boolean_value",  # before int, which it is too
    int: "integer_value",
    float: "double_value",
    str: "string_value",
    bytes: "bytes_value",
    datetime: "timestamp_value",
    dict: "map_value",
    list: "array_value",
    tuple: "array_value",
    set: "array_value",
    frozenset: "array_value",
    type(None): "null_value",
}


@lru_cache(maxsize=256)
def _kind(of: type) -> str:
    for base, kind in _KINDS.items():
        if issubclass(of, base):
            return kind
    raise TypeError(f"NSPS stores no {of.__name__} in Firestore")


def encode(value: Any, into: Any) -> None:
    """Put a value into an empty protobuf Value. Raises TypeError for one that NSPS never stores."""
    kind = _kind(type(value))  # type: ignore[arg-type]
    if kind == "map_value":
        into.map_value.SetInParent()
        fields = into.map_value.fields
        for name, inner in value.items():
            encode(inner, fields[name])
    elif kind == "array_value":
        into.array_value.SetInParent()
        _extend(into.array_value, value)
    elif kind == "timestamp_value":
        into.timestamp_value.FromDatetime(value)
    else:
        setattr(into, kind, 0 if value is None else value)


def decode(value: Any) -> Any:
    """The value of a protobuf Value. Raises ValueError for one that NSPS never stores."""
    kind = value.WhichOneof("value_type")
    if kind == "map_value":
        return {name: decode(inner) for name, inner in value.map_value.fields.items()}
    if kind == "array_value":
        return [decode(inner) for inner in value.array_value.values]
    if kind == "timestamp_value":
        return _time(value.timestamp_value)
    if kind == "null_value":
        return None
    if kind not in _KINDS.values():
        raise ValueError(f"NSPS stores no {kind} in Firestore")
    return getattr(value, kind)


def _put(write: Write, root: str, message: Any) -> None:
    document = message.update
    document.name = root + write.path
    masked = []
    for name in sorted(write.fields):
        value = write.fields[name]
        if isinstance(value, COMPUTED):
            _compute(value, message.update_transforms.add(field_path=_quoted(name)))
        else:
            encode(value, document.fields[name])
            masked.append(_quoted(name))
    if write.only_if is False:
        message.current_document.exists = False
        return
    message.update_mask.field_paths.extend(masked)  # with none too: else all others would go
    if write.only_if is not None:
        message.current_document.update_time.CopyFrom(write.only_if)


def _compute(value: Any, transform: Any) -> None:
    if isinstance(value, Increment):
        encode(value.value, transform.increment)
    elif isinstance(value, ArrayUnion):
        _extend(transform.append_missing_elements, value.values)
    else:
        _extend(transform.remove_all_from_array, value.values)


def _extend(array: Any, values: Iterable[Any]) -> None:
    for each in values:
        encode(each, array.values.add())


@lru_cache(maxsize=1024)
def _quoted(name: str) -> str:
    """The name of a top-level field as a field path."""
    return str(Client.field_path(name))


def _time(timestamp: Any) -> datetime:
    found: datetime = timestamp.ToDatetime(UTC)
    return found


class Method(NamedTuple):
    """A method of Firestore's: messages, and deadline and retries as Google's client has them."""

    name: str
    request: Any
    answer: Any
    seconds: float
    retried: frozenset[grpc.StatusCode]
    routed_by: str = "database"
    streams: bool = False


_Code = grpc.StatusCode
_UNREAD = frozenset((_Code.DEADLINE_EXCEEDED, _Code.INTERNAL, _Code.UNAVAILABLE))
_NOT_DONE = frozenset((_Code.RESOURCE_EXHAUSTED, _Code.UNAVAILABLE))
GET = Method(
    "BatchGetDocuments",
    types.BatchGetDocumentsRequest.pb(),
    types.BatchGetDocumentsResponse.pb(),
    300,
    _UNREAD,
    streams=True,
)
QUERY = Method(
    "RunQuery",
    types.RunQueryRequest.pb(),
    types.RunQueryResponse.pb(),
    300,
    _UNREAD,
    routed_by="parent",
    streams=True,
)
COMMIT = Method("Commit", types.CommitRequest.pb(), types.CommitResponse.pb(), 60, _NOT_DONE)
ROLLBACK = Method("Rollback", types.RollbackRequest.pb(), Empty, 5, frozenset())
"""Once and shortly: a transaction that is not rolled back ends by itself."""
_FIRST_PAUSE, _GROWTH, _LONGEST_PAUSE = 0.1, 1.3, 60.0


class _Channel:
    """Firestore's methods over one channel."""

    def __init__(self, database: str, emulator: str | None) -> None:
        options = [
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            (ChannelOptions.SingleThreadedUnaryStream, 1),  # a third less work for a read
        ]
        if emulator:
            channel = grpc.insecure_channel(emulator, options)
        else:
            channel = FirestoreGrpcTransport.create_channel(options=options)
        self._metadata = [
            ClientInfo().to_grpc_metadata(),  # type: ignore[no-untyped-call]
            ("google-cloud-resource-prefix", database),
        ]
        self._metadata += [("authorization", "Bearer owner")] if emulator else []
        self._stubs = {
            method.name: (channel.unary_stream if method.streams else channel.unary_unary)(
                f"/google.firestore.v1.Firestore/{method.name}",
                method.request.SerializeToString,
                method.answer.FromString,
            )
            for method in (GET, QUERY, COMMIT, ROLLBACK)
        }

    def call(self, method: Method, request: Any) -> Any:
        """The answer, or the list of answers of a method that streams."""
        stub, pause = self._stubs[method.name], _FIRST_PAUSE
        ends = time.monotonic() + method.seconds
        routing: Any = to_grpc_metadata(  # type: ignore[no-untyped-call]
            [(method.routed_by, getattr(request, method.routed_by))]
        )
        metadata = [*self._metadata, routing]
        while True:
            try:
                answer = stub(request, timeout=ends - time.monotonic(), metadata=metadata)
                return list(answer) if method.streams else answer
            except grpc.RpcError as error:
                waits = random.uniform(0, pause)  # noqa: S311
                if error.code() not in method.retried or time.monotonic() + waits >= ends:
                    raise from_grpc_error(error) from error  # type: ignore[no-untyped-call]
            time.sleep(waits)
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)
