"""The product's own way to Firestore sends and reads what Google's client does.

Both talk to a server that keeps what it is sent, and answers what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple
from unittest import mock

import grpc
import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import Credentials
from google.cloud.firestore import (
    ArrayRemove,
    ArrayUnion,
    Client,
    FieldFilter,
    GeoPoint,
    Increment,
)
from google.cloud.firestore_v1 import types
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from nsps.cloud.documents import COMMIT, GET, QUERY, Documents, Transaction, Write

PROJECT, DATABASE = "demo-wire", "(default)"
SENT_ALONG = ("google-cloud-resource-prefix", "x-goog-request-params", "authorization")


class Sent(NamedTuple):
    """A call as it arrived."""

    request: Any
    metadata: dict[str, str]
    seconds: float


class Server:
    """``fails``: the codes of the next calls' answers; then ``found`` is answered, or a success."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.fails: list[grpc.StatusCode] = []
        self.found: Any = None
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        with mock.patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{port}"}):
            self.client, self.ours = (
                Client(PROJECT, database=DATABASE),
                Documents(PROJECT, DATABASE),
            )

    def stop(self) -> None:
        self._server.stop(None)

    def sent_by(self, call: Callable[[], Any]) -> list[Sent]:
        """What a call sends; that it fails does not matter."""
        self.sent.clear()
        with suppress(GoogleAPICallError):
            call()
        return list(self.sent)

    def answer(self, request: Any, context: Any) -> Any:
        self.sent.append(
            Sent(request, dict(context.invocation_metadata()), context.time_remaining())
        )
        if self.fails:
            context.abort(self.fails.pop(0), "as was asked for")
        now = Timestamp(seconds=1)
        if isinstance(request, COMMIT.request):
            return COMMIT.answer(write_results=[{"update_time": now} for _ in request.writes])
        if isinstance(request, GET.request):
            found = self.found or types.Document.pb()(name=request.documents[0])
            return iter([GET.answer(found=found, read_time=now)])
        return iter([QUERY.answer(read_time=now)])


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, details: Any) -> Any:
        (method,) = (m for m in (COMMIT, GET, QUERY) if details.method.endswith(f"/{m.name}"))
        kind = grpc.unary_stream_rpc_method_handler
        kind = kind if method.streams else grpc.unary_unary_rpc_method_handler
        to = (method.request.FromString, method.answer.SerializeToString)
        return kind(self._server.answer, *to)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


class Word(StrEnum):
    QUEUED = "queued"


class Number(IntEnum):
    ONE = 1


_YEARS = datetime(1900, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001
_ZONES: st.SearchStrategy[Any] = st.none() | st.timezones()
_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    _NAMES,
    st.binary(max_size=4),
    st.sampled_from([Word.QUEUED, Number.ONE, ""]),
    st.datetimes(*_YEARS, timezones=_ZONES),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(st.integers(0, 9), max_size=1)
        | st.dictionaries(_NAMES, inner, max_size=3)
    ),
    max_leaves=8,
)
_COMPUTED = (
    st.integers(-9, 9).map(Increment)
    | st.lists(_SCALARS, min_size=1, max_size=3).map(ArrayUnion)
    | st.lists(_SCALARS, min_size=1, max_size=3).map(ArrayRemove)
)
_FIELDS = st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=4)
_WRITTEN = st.dictionaries(_NAMES, _VALUES | _COMPUTED, min_size=1, max_size=4)


def _by_client(client: Client, write: Write) -> Any:
    """The same write through Google's client."""
    batch, at, fields = client.batch(), client.document(write.path), dict(write.fields)
    quoted = {Client.field_path(name): value for name, value in fields.items()}
    if write.only_if is None:
        batch.set(at, fields, merge=list(quoted))
    elif write.only_if is False:
        batch.create(at, fields)
    else:
        batch.update(at, quoted, option=client.write_option(last_update_time=write.only_if))
    return batch.commit()


def _bytes(sent: list[Sent]) -> bytes:
    (only,) = sent
    return bytes(only.request.SerializeToString(deterministic=True))


@settings(max_examples=150, deadline=None)
@given(fields=_WRITTEN, only_if=st.sampled_from([None, False, Timestamp(seconds=7, nanos=5000)]))
def test_a_write_is_the_same_bytes(server: Server, fields: dict[str, Any], only_if: Any) -> None:
    write = Write("handlers/hss/owners/a:1", fields, only_if)
    theirs = server.sent_by(lambda: _by_client(server.client, write))
    assert _bytes(server.sent_by(lambda: server.ours.commit([write]))) == _bytes(theirs)


@settings(max_examples=150, deadline=None)
@given(fields=_FIELDS)
def test_a_document_is_read_as_the_same_values(server: Server, fields: dict[str, Any]) -> None:
    (sent,) = server.sent_by(lambda: server.client.document("events/e").create(fields))
    server.found = sent.request.writes[0].update
    try:
        (theirs,) = server.client.get_all([server.client.document("events/e")])
        (ours,) = server.ours.get(["events/e"])
    finally:
        server.found = None
    assert (ours.path, ours.fields) == ("events/e", theirs.to_dict())
    assert ours.read_time == theirs.read_time


def _commit(server: Server) -> tuple[Callable[[], Any], Callable[[], Any]]:
    write = Write("events/e", {"n": 1})
    return lambda: _by_client(server.client, write), lambda: server.ours.commit([write])


def _get(server: Server) -> tuple[Callable[[], Any], Callable[[], Any]]:
    at = server.client.document("events/e")
    return lambda: list(server.client.get_all([at])), lambda: server.ours.get(["events/e"])


def _query(server: Server) -> tuple[Callable[[], Any], Callable[[], Any]]:
    orders = server.client.collection("handlers", "oms", "orders")
    query = orders.where(filter=FieldFilter("order_id", "==", "o-1")).limit(2)

    def ours() -> Any:
        return server.ours.where("handlers/oms/orders", "order_id", "o-1", 2, Transaction())

    return lambda: list(query.stream()), ours


CALLS = [_commit, _get, _query]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_sent_as_the_client_sends_it(server: Server, call: Any) -> None:
    (theirs,), (ours,) = (server.sent_by(each) for each in call(server))
    ours.request.ClearField("new_transaction") if call is _query else None
    assert ours.request == theirs.request
    assert {k: ours.metadata[k] for k in SENT_ALONG} == {k: theirs.metadata[k] for k in SENT_ALONG}
    assert ours.seconds == pytest.approx(theirs.seconds, abs=5)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
@pytest.mark.parametrize("call", CALLS)
def test_it_is_sent_again_where_the_client_sends_it_again(
    server: Server, call: Any, code: grpc.StatusCode
) -> None:
    tries = []
    for each in call(server):
        server.fails = [code]
        tries.append(len(server.sent_by(each)))
    assert tries[0] == tries[1], f"the client tries {tries[0]} times"


def test_a_transaction_begins_with_its_first_read_and_is_repeated_by_its_first_id() -> None:
    tx = Transaction()
    requests = [GET.request() for _ in range(3)]
    tx.choose(requests[0])
    tx.id = b"first"
    tx.choose(requests[1])
    tx = tx.again()
    tx.id = b"second"
    tx.again().choose(requests[2])
    assert requests[0].WhichOneof("consistency_selector") == "new_transaction"
    assert requests[1].transaction == b"first"
    assert requests[2].new_transaction.read_write.retry_transaction == b"first"


def test_what_is_never_stored_is_refused(server: Server) -> None:
    with pytest.raises(TypeError, match="GeoPoint"):
        server.ours.commit([Write("events/e", {"at": GeoPoint(1, 2)})])
    server.found = types.Document.pb()(
        name=f"projects/{PROJECT}/databases/{DATABASE}/documents/e/e"
    )
    server.found.fields["at"].geo_point_value.latitude = 1
    with pytest.raises(ValueError, match="geo_point"):
        server.ours.get(["e/e"])
    server.found = None


def test_the_time_of_a_write_is_the_server_s(server: Server) -> None:
    (updated,) = server.ours.commit([Write("events/e", {"n": 1})])
    assert updated.ToDatetime(UTC) == datetime.fromtimestamp(1, UTC)


def test_without_an_emulator_calls_carry_the_credentials_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to the network, which the tests have not."""
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    credentials = mock.Mock(spec=Credentials)
    with (
        mock.patch("google.auth.default", return_value=(credentials, PROJECT)) as default,
        mock.patch("grpc.secure_channel") as channel,
    ):
        assert Documents(PROJECT, DATABASE)._channel
    (target, _), given = channel.call_args
    assert target.startswith("firestore.googleapis.com")
    assert ("grpc.keepalive_time_ms", 30_000) in given["options"]
    assert "https://www.googleapis.com/auth/datastore" in default.call_args.kwargs["default_scopes"]
