"""The gRPC methods of google.firestore.v1.Firestore."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import string
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import grpc
from google.cloud.firestore_v1.types import firestore as types
from google.cloud.firestore_v1.types import write as write_types
from google.protobuf.empty_pb2 import Empty

from nsps_local.control import Route, known_names, number
from nsps_local.firestore import plan, wire
from nsps_local.firestore.aggregation import read_aggregations
from nsps_local.firestore.clock import timestamp
from nsps_local.firestore.faults import Faults
from nsps_local.firestore.indexes import Indexes
from nsps_local.firestore.listen import Listeners, Target
from nsps_local.firestore.metrics import Metrics, caller
from nsps_local.firestore.names import Key, field_path, invalid, key_of, split_database
from nsps_local.firestore.query import NAME, Cursor, Path, Query, Term, parse
from nsps_local.firestore.store import Record, Store
from nsps_local.firestore.transactions import Transaction, Transactions, contention
from nsps_local.firestore.values import Value, path_key, sort_key
from nsps_local.firestore.writes import apply, check_precondition, target
from nsps_local.grpc_server import Refused, bidirectional, streaming, unary

log = logging.getLogger(__name__)

SERVICE = "google.firestore.v1.Firestore"
MAX_REQUEST = 10 * 1024 * 1024
MAX_BATCH = 500
MAX_PAGE = 300
MAX_TRANSFORMS = 500
TTL_SECONDS = 1.0
TTL_CHUNK = 500
_ID_LETTERS = string.ascii_letters + string.digits
_NEW_DOCUMENT = {"exists": False}

Write = write_types.Write.pb()


class Applied(NamedTuple):
    """A commit: its time; for each write the document's update time (None: gone) and results."""

    time: int
    writes: list[tuple[int | None, list[Any]]]


class FirestoreService:
    """All databases of one state directory.

    `indexes`: queries that these do not serve are refused (None: every query is served). `ttl`:
    (collection group, field) pairs; documents whose timestamp there is past are deleted.
    `databases`: names (projects/P/databases/D) of those that exist (none: every one does).
    """

    def __init__(
        self,
        state: FilePath,
        indexes: Indexes | None = None,
        ttl: Sequence[tuple[str, Path]] = (),
        monotonic: Callable[[], float] = time.monotonic,
        databases: Collection[str] = (),
    ) -> None:
        self._databases = frozenset(databases)
        self._store = Store(state, monotonic)
        self._indexes = indexes or Indexes()
        self._ttl = tuple(ttl)
        self._transactions = Transactions(self._store)
        self.metrics = Metrics()
        self.faults = Faults()
        self._listeners = Listeners(
            self._store.clock.now, lambda key: self._store.get(key) is not None
        )
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._ttl:
            self._sweeper = asyncio.create_task(self._sweep_always())

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        self._store.close()

    def handlers(self) -> list[Any]:
        """The generic handler of the service."""
        methods = {
            "GetDocument": unary(types.GetDocumentRequest.pb(), self._get_document),
            "BatchGetDocuments": streaming(types.BatchGetDocumentsRequest.pb(), self._batch_get),
            "BeginTransaction": unary(types.BeginTransactionRequest.pb(), self._begin),
            "Commit": unary(types.CommitRequest.pb(), self._commit),
            "Rollback": unary(types.RollbackRequest.pb(), self._rollback),
            "RunQuery": streaming(types.RunQueryRequest.pb(), self._run_query),
            "RunAggregationQuery": streaming(
                types.RunAggregationQueryRequest.pb(), self._run_aggregation
            ),
            "BatchWrite": unary(types.BatchWriteRequest.pb(), self._batch_write),
            "CreateDocument": unary(types.CreateDocumentRequest.pb(), self._create_document),
            "UpdateDocument": unary(types.UpdateDocumentRequest.pb(), self._update_document),
            "DeleteDocument": unary(types.DeleteDocumentRequest.pb(), self._delete_document),
            "ListDocuments": unary(types.ListDocumentsRequest.pb(), self._list_documents),
            "ListCollectionIds": unary(
                types.ListCollectionIdsRequest.pb(), self._list_collection_ids
            ),
            "PartitionQuery": unary(types.PartitionQueryRequest.pb(), self._partition_query),
            "Listen": bidirectional(types.ListenRequest.pb(), self._listen),
            "Write": _not_built("Write (the streaming one of the web clients)"),
            "ExecutePipeline": _not_built("ExecutePipeline (Enterprise edition)"),
        }
        return [grpc.method_handlers_generic_handler(SERVICE, methods)]

    def routes(self) -> Mapping[tuple[str, str], Route]:
        """The control port."""
        return {
            ("GET", "/health"): lambda _: {"status": "ok"},
            ("GET", "/metrics"): lambda _: self.metrics.report(),
            ("POST", "/metrics/reset"): self._reset_metrics,
            ("POST", "/faults"): self.faults.set,
            ("POST", "/clock"): self._advance_clock,
        }

    def _reset_metrics(self, _: dict[str, Any]) -> dict[str, Any]:
        self.metrics.reset()
        return {}

    def _advance_clock(self, body: dict[str, Any]) -> dict[str, Any]:
        known_names(body, frozenset(("advance",)))
        self._store.advance_clock(number(body, "advance", 0, 10 * 366 * 86400))
        self._sweep()
        return {"now": timestamp(self._store.clock.now()).ToJsonString()}

    # Names

    def _database(self, root: str) -> int:
        """The number of a database. Raises Refused where it does not exist."""
        if self._databases and root not in self._databases:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"The database {root} does not exist. There is {', '.join(self._databases)}.",
            )
        return self._store.database(root)

    def _key(self, name: str, root: str | None = None) -> Key:
        database, path = split_database(name)
        if root is not None and database != root:
            raise invalid(f'The document "{name}" is not in the database "{root}".')
        return key_of(self._database(database), path)

    def _root(self, database: str) -> tuple[int, str]:
        root, path = split_database(f"{database}/documents")
        if path:
            raise invalid(f'"{database}" is not of the form projects/P/databases/D.')
        return self._database(root), root

    # Reading documents

    async def _get_document(self, request: Any, context: Any) -> bytes:
        key = self._key(request.name)
        await self.faults.gate((key.group,))
        moment = await self._moment(key.db, request, [key])
        self.metrics.add("reads", key.group, caller(context))
        record = self._at(key, moment)
        if record is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f'Document "{request.name}" not found.')
        return wire.document(request.name, record, _mask(request))

    async def _moment(self, db: int, request: Any, keys: Sequence[Key]) -> int | None:
        """The time that a request reads; None: now. `keys` are what it reads."""
        kind = request.WhichOneof("consistency_selector")
        if kind == "transaction":
            transaction = self._transactions.get(db, request.transaction)
            return await self._transactions.read_keys(transaction, keys)
        if kind == "read_time":
            return self._transactions.past(request.read_time)
        return None

    def _at(self, key: Key, moment: int | None) -> Record | None:
        record = self._store.get(key)
        if moment is None:
            return record
        if moment < self._store.history.floor:
            raise contention()
        return self._store.history.at(key, moment, record)

    async def _batch_get(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        db, root = self._root(request.database)
        names = list(dict.fromkeys(request.documents))
        keys = [self._key(name, root) for name in names]
        await self.faults.gate(key.group for key in keys)
        begun = self._begin_with(db, request, context)
        if begun is not None:
            moment: int | None = await self._transactions.read_keys(begun, keys)
            yield wire.part(3, begun.name)
        else:
            moment = await self._moment(db, request, keys)
        fields = _mask(request)
        stamp = wire.time(self._store.clock.now() if moment is None else moment)
        answers = []
        who = caller(context)
        for name, key in zip(names, keys, strict=True):
            self.metrics.add("reads", key.group, who)
            record = self._at(key, moment)
            answers.append(
                wire.missing(name, stamp)
                if record is None
                else wire.found(wire.document(name, record, fields), stamp)
            )
        for answer in answers:  # all read at one moment, before the first is sent
            yield answer

    # Transactions

    def _begin_with(self, db: int, request: Any, context: Any) -> Transaction | None:
        if request.WhichOneof("consistency_selector") != "new_transaction":
            return None
        self.metrics.add("transactions", None, caller(context))
        return self._transactions.begin(db, request.new_transaction)

    async def _begin(self, request: Any, context: Any) -> bytes:
        db, _ = self._root(request.database)
        await self.faults.gate(())
        self.metrics.add("transactions", None, caller(context))
        return wire.part(1, self._transactions.begin(db, request.options).name)

    async def _rollback(self, request: Any, _: Any) -> Any:
        db, _ = self._root(request.database)
        await self.faults.gate(())
        self._transactions.rollback(db, request.transaction)
        return Empty()

    async def _commit(self, request: Any, context: Any) -> bytes:
        db, root = self._root(request.database)
        _check_request(request)
        keys = [self._key(target(write), root) for write in request.writes]
        groups = [key.group for key in keys]
        await self.faults.gate(groups)
        who = caller(context)
        transaction = None
        if request.transaction:
            transaction = self._transactions.get(db, request.transaction)
        try:
            if self.faults.aborts(groups):
                raise contention()
            applied = await self._commit_in(transaction, keys, request.writes, who)
        except Refused as refused:
            if refused.code is grpc.StatusCode.ABORTED:
                self.metrics.add("aborts", None, who)
            raise
        finally:
            if transaction is not None:
                self._transactions.end(transaction)
        if self.faults.loses(groups):
            raise Refused(grpc.StatusCode.UNAVAILABLE, "The answer of the commit is lost.")
        results = [wire.write_result(updated, values) for updated, values in applied.writes]
        return wire.committed(results, applied.time)

    async def _commit_in(
        self, transaction: Transaction | None, keys: list[Key], writes: Any, who: str
    ) -> Applied:
        if transaction is None:
            async with self._transactions.turn(keys):
                return self._apply(keys, writes, who)
        if transaction.read_only and writes:
            raise invalid("Cannot modify entities in a read-only transaction.")
        if writes:
            self._transactions.check(transaction)
        return self._apply(keys, writes, who)

    def _apply(self, keys: list[Key], writes: Iterable[Any], who: str) -> Applied:
        """All writes, or none: nothing is stored before the last one is known to be possible."""
        time = self._store.clock.next()
        before: dict[Key, Record | None] = {}
        after: dict[Key, Record | None] = {}
        done: list[tuple[int | None, list[Any]]] = []
        transforms: Counter[Key] = Counter()
        for key, write in zip(keys, writes, strict=True):
            if key not in after:
                before[key] = after[key] = self._store.get(key)
            was = after[key]
            check_precondition(write, target(write), was)
            effect = apply(write, key.path, was.data if was else None, time)
            transforms[key] += len(effect.results)
            if transforms[key] > MAX_TRANSFORMS:
                raise invalid(f"A commit has at most {MAX_TRANSFORMS} transforms of one document.")
            if effect.data is None:
                after[key] = None
            elif was is None or was.data != effect.data:
                self._indexes.check_entries(key, effect.data)
                after[key] = Record(0, was.created if was else time, time, effect.data)
            now = after[key]
            done.append((now.updated if now else None, effect.results))
        self._save(time, before, after)
        for key, (updated, _) in zip(keys, done, strict=True):
            self.metrics.add("deletes" if updated is None else "writes", key.group, who)
        return Applied(time, done)

    def _save(
        self, time: int, before: dict[Key, Record | None], after: dict[Key, Record | None]
    ) -> None:
        if not after:
            return
        with self._store.transaction(time):
            for key, now in after.items():
                was = before[key]
                if now is not None and now is not was:
                    self._store.put(key, was, now)
                elif now is None and was is not None:
                    self._store.delete(time, key, was)
        self._listeners.wake()

    async def _batch_write(self, request: Any, context: Any) -> Any:
        _, root = self._root(request.database)
        _check_request(request)
        if len(request.writes) > MAX_BATCH:
            raise invalid(f"A BatchWrite has at most {MAX_BATCH} writes.")
        keys = [self._key(target(write), root) for write in request.writes]
        if len(set(keys)) < len(keys):
            raise invalid("A BatchWrite cannot write one document twice.")
        await self.faults.gate(key.group for key in keys)
        who = caller(context)
        answer = types.BatchWriteResponse.pb()()
        for key, write in zip(keys, request.writes, strict=True):
            result, status = answer.write_results.add(), answer.status.add()
            try:
                ((updated, _),) = self._apply([key], [write], who).writes
            except Refused as refused:
                status.code, status.message = refused.code.value[0], refused.text
                continue
            if updated is not None:
                result.update_time.CopyFrom(timestamp(updated))
        return answer

    # Single writes

    async def _create_document(self, request: Any, context: Any) -> bytes:
        name = request.document_id or "".join(secrets.choice(_ID_LETTERS) for _ in range(20))
        write = Write(update=request.document, current_document=_NEW_DOCUMENT)
        write.update.name = f"{request.parent}/{request.collection_id}/{name}"
        return await self._write_one(write, _mask(request), context)

    async def _update_document(self, request: Any, context: Any) -> bytes:
        write = Write(update=request.document)
        if request.HasField("update_mask"):
            write.update_mask.CopyFrom(request.update_mask)
        if request.HasField("current_document"):
            write.current_document.CopyFrom(request.current_document)
        return await self._write_one(write, _mask(request), context)

    async def _write_one(self, write: Any, fields: list[Path] | None, context: Any) -> bytes:
        name = write.update.name
        key = self._key(name)
        await self.faults.gate((key.group,))
        self._apply([key], [write], caller(context))
        record = self._store.get(key)
        assert record is not None
        return wire.document(name, record, fields)

    async def _delete_document(self, request: Any, context: Any) -> Any:
        key = self._key(request.name)
        write = Write(delete=request.name)
        if request.HasField("current_document"):
            write.current_document.CopyFrom(request.current_document)
        await self.faults.gate((key.group,))
        self._apply([key], [write], caller(context))
        return Empty()

    # Queries

    async def _query(
        self, request: Any, query: Query, transaction: Transaction | None
    ) -> tuple[int, list[plan.Hit]]:
        """The time a query is run at, and what it finds."""
        if request.WhichOneof("consistency_selector") == "transaction":
            transaction = self._transactions.get(query.db, request.transaction)
        if transaction is not None:
            return await self._transactions.read_query(transaction, query)
        if request.WhichOneof("consistency_selector") == "read_time":
            moment = self._transactions.past(request.read_time)
            return moment, self._transactions.run_at(query, moment)
        return self._store.clock.now(), plan.run(self._store, query)

    def _parse(self, parent: str, query: Any, aggregated: Iterable[Path] = ()) -> Query:
        root, _ = split_database(parent)
        parsed = parse(self._database(root), root, parent, query, aggregated)
        self._indexes.check(parsed)
        return parsed

    async def _run_query(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        query = self._parse(request.parent, request.structured_query)
        await self.faults.gate((query.group,))
        begun = self._begin_with(query.db, request, context)
        moment, hits = await self._query(request, query, begun)
        self.metrics.add("reads", query.group, caller(context), max(1, len(hits) + query.offset))
        stamp = wire.time(moment)
        if begun is not None:
            yield wire.part(2, begun.name)
        for hit in hits:
            name = f"{query.root}/documents/{hit.key.path}"
            yield wire.match(wire.document(name, hit.record, query.fields), stamp)
        if not hits:
            yield wire.part(3, stamp)

    async def _run_aggregation(self, request: Any, context: Any) -> AsyncIterator[Any]:
        asked = request.structured_aggregation_query
        aggregations = read_aggregations(asked.aggregations)
        fields = {each.path for each in aggregations.values() if each.path is not None}
        query = self._parse(request.parent, asked.structured_query, fields)
        await self.faults.gate((query.group,))
        begun = self._begin_with(query.db, request, context)
        if begun is None and not fields and not request.WhichOneof("consistency_selector"):
            moment = self._store.clock.now()
            found = plan.count(self._store, query, None)
            hits: list[plan.Hit] = []
        else:
            moment, hits = await self._query(request, query, begun)
            found = len(hits)
        answer = types.RunAggregationQueryResponse.pb()()
        for alias, each in aggregations.items():
            answer.result.aggregate_fields[alias].CopyFrom(each.value(found, hits))
        self.metrics.add("reads", query.group, caller(context), max(1, math.ceil(found / 1000)))
        answer.read_time.CopyFrom(timestamp(moment))
        if begun is not None:
            answer.transaction = begun.name
        yield answer

    async def _partition_query(self, request: Any, _: Any) -> Any:
        """Fewer partitions than asked for are allowed: always one, without cursors."""
        self._parse(request.parent, request.structured_query)
        return types.PartitionQueryResponse.pb()()

    async def _list_documents(self, request: Any, context: Any) -> Any:
        root, path = split_database(request.parent)
        db = self._database(root)
        if request.order_by:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "order_by is not part of this server.")
        size = _page_size(request)
        await self.faults.gate((request.collection_id,))
        after = path_key(request.page_token)
        query = Query(
            db=db,
            root=root,
            parent=path,
            group=request.collection_id,
            start=Cursor(after, inclusive=False) if request.page_token else None,
            limit=size + 1,
        )
        moment, hits = await self._query(request, query, None)
        rows: dict[str, Record | None] = {hit.key.path: hit.record for hit in hits}
        if request.show_missing:
            missing = self._with_children(db, path, request.collection_id, moment) - rows.keys()
            rows |= {name: None for name in missing if path_key(name) > after}
        paths = sorted(rows, key=path_key)
        fields = _mask(request)
        answer = types.ListDocumentsResponse.pb()()
        for name in paths[:size]:
            full, record = f"{root}/documents/{name}", rows[name]
            if record is None:
                answer.documents.add(name=full)
            else:
                answer.documents.add().MergeFromString(wire.document(full, record, fields))
        if len(paths) > size:
            answer.next_page_token = paths[size - 1]
        count = max(1, len(answer.documents))
        self.metrics.add("reads", request.collection_id or None, caller(context), count)
        return answer

    def _with_children(self, db: int, path: str, group: str, moment: int) -> set[str]:
        """The paths of the documents directly below `path` that have something below them."""
        groups = {group} if group else plan.children(self._store, db, path, moment)
        collections = [f"{path}/{name}".lstrip("/") for name in groups]
        return {
            f"{collection}/{name}"
            for collection in collections
            for name in plan.children(self._store, db, collection, moment)
        }

    async def _list_collection_ids(self, request: Any, context: Any) -> Any:
        root, path = split_database(request.parent)
        db = self._database(root)
        size = _page_size(request)
        await self.faults.gate(())
        moment = await self._moment(db, request, []) or self._store.clock.now()
        ids = sorted(plan.children(self._store, db, path, moment))
        ids = [name for name in ids if name > request.page_token]
        answer = types.ListCollectionIdsResponse.pb()(collection_ids=ids[:size])
        if len(ids) > size:
            answer.next_page_token = ids[size - 1]
        self.metrics.add("reads", None, caller(context))
        return answer

    # Listening

    async def _listen(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async for answer in self._listeners.serve(requests, self._target):
            yield answer

    def _target(self, request: Any) -> Target:
        db, root = self._root(request.database)
        asked = request.add_target
        resumed = bool(asked.resume_token)
        if asked.WhichOneof("target_type") == "documents":
            keys = [self._key(name, root) for name in asked.documents.documents]

            def look() -> dict[Key, Record]:
                return {key: found for key in keys if (found := self._store.get(key))}

            return Target(asked.target_id, root, look, resumed=resumed)
        query = self._parse(asked.query.parent, asked.query.structured_query)
        if query.db != db:
            raise invalid("The query of a target is of another database than its request.")

        def hits() -> dict[Key, Record]:
            return {hit.key: hit.record for hit in plan.run(self._store, query)}

        return Target(asked.target_id, root, hits, resumed=resumed)

    # Expiry

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(TTL_SECONDS)
            try:
                self._sweep()
            except Exception:
                log.exception("expired documents could not be deleted; trying again")

    def _sweep(self) -> None:
        """Delete what has expired, in every database."""
        now = sort_key(Value(timestamp_value=timestamp(self._store.clock.now())))
        for root, db in self._store.databases():
            for group, path in self._ttl:
                while self._expire(db, root, group, path, now) == TTL_CHUNK:
                    pass

    def _expire(self, db: int, root: str, group: str, path: Path, now: bytes) -> int:
        query = Query(
            db=db,
            root=root,
            parent="",
            group=group,
            descendants=True,
            disjuncts=((Term(path, "<=", (now,)),),),
            order=((path, False), (NAME, False)),
            limit=TTL_CHUNK,
        )
        keys = [hit.key for hit in plan.run(self._store, query)]
        if keys:
            names = (f"{root}/documents/{key.path}" for key in keys)
            self._apply(keys, [Write(delete=name) for name in names], "ttl")
        return len(keys)


def _not_built(name: str) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, f"{name} is not part of this Firestore server."
        )

    return grpc.stream_stream_rpc_method_handler(refuse)


def _check_request(request: Any) -> None:
    if request.ByteSize() > MAX_REQUEST:
        raise invalid(f"Request payload size exceeds the limit: {MAX_REQUEST} bytes.")


def _mask(request: Any) -> list[Path] | None:
    if not request.HasField("mask"):
        return None
    return [field_path(path) for path in request.mask.field_paths]


def _page_size(request: Any) -> int:
    if request.page_size < 0:
        raise invalid("page_size is negative.")
    return int(request.page_size) or MAX_PAGE
