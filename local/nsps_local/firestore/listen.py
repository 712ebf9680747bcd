"""Listen: what on_snapshot of the client libraries is fed by.

Each target (a query, or documents by name) is looked at again after every commit, and what differs
from what the client was told is sent, closed by one NO_CHANGE with the time: a consistent snapshot.
Resume tokens are not kept: a client that comes back gets a RESET and everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from google.cloud.firestore_v1.types import firestore as types

from nsps_local.firestore import wire
from nsps_local.firestore.clock import timestamp
from nsps_local.firestore.names import Key, invalid
from nsps_local.firestore.store import Record

ListenResponse = types.ListenResponse.pb()
TargetChange = types.TargetChange.pb()
Look = Callable[[], dict[Key, Record]]
"""What a target consists of now."""


class Target:
    """A target of one stream, and the versions its client was told (None: nothing yet)."""

    def __init__(self, number: int, root: str, look: Look, *, resumed: bool) -> None:
        self.number = number
        self.root = root
        self.look = look
        self.resumed = resumed
        self.sent: dict[Key, int] | None = None

    def news(self, exists: Callable[[Key], bool]) -> Iterator[Any]:
        """What to tell the client, without the closing NO_CHANGE."""
        if self.sent is None:
            yield self._change(TargetChange.ADD)
            if self.resumed:
                yield self._change(TargetChange.RESET)
        sent = self.sent or {}
        now = self.look()
        for key, record in now.items():
            if sent.get(key) != record.updated:
                yield self._document(key, record)
        for key in sent.keys() - now.keys():
            yield self._gone(key, deleted=not exists(key))
        if self.sent is None:
            yield self._change(TargetChange.CURRENT)
        self.sent = {key: record.updated for key, record in now.items()}

    def _name(self, key: Key) -> str:
        return f"{self.root}/documents/{key.path}"

    def _change(self, kind: int) -> Any:
        return ListenResponse(
            target_change={"target_change_type": kind, "target_ids": [self.number]}
        )

    def _document(self, key: Key, record: Record) -> Any:
        answer = ListenResponse(document_change={"target_ids": [self.number]})
        encoded = wire.document(self._name(key), record, None)
        answer.document_change.document.MergeFromString(encoded)
        return answer

    def _gone(self, key: Key, *, deleted: bool) -> Any:
        content = {"document": self._name(key), "removed_target_ids": [self.number]}
        if deleted:
            return ListenResponse(document_delete=content)
        return ListenResponse(document_remove=content)


class Listeners:
    """The streams under way: `wake` after each commit."""

    def __init__(self, now: Callable[[], int], exists: Callable[[Key], bool]) -> None:
        self._now = now
        self._exists = exists
        self._streams: set[asyncio.Event] = set()

    def wake(self) -> None:
        for event in self._streams:
            event.set()

    async def serve(
        self, requests: AsyncIterator[Any], target: Callable[[Any], Target]
    ) -> AsyncIterator[Any]:
        """The answers of one stream; `target` makes one from a ListenRequest."""
        changed = asyncio.Event()
        targets: dict[int, Target] = {}
        self._streams.add(changed)
        reader = asyncio.create_task(_follow(requests, target, targets, changed))
        try:
            while True:
                await changed.wait()
                changed.clear()
                if reader.done():
                    reader.result()  # raises what was wrong with a request
                    return
                news = [part for each in list(targets.values()) for part in each.news(self._exists)]
                if news:
                    news.append(self._no_change())
                for part in news:
                    yield part
        finally:
            self._streams.discard(changed)
            reader.cancel()

    def _no_change(self) -> Any:
        now = self._now()
        answer = ListenResponse()
        answer.target_change.read_time.CopyFrom(timestamp(now))
        answer.target_change.resume_token = now.to_bytes(8, "big")
        return answer


async def _follow(
    requests: AsyncIterator[Any],
    make: Callable[[Any], Target],
    targets: dict[int, Target],
    changed: asyncio.Event,
) -> None:
    """Keep `targets` as the client asks, until it is done asking."""
    try:
        async for request in requests:
            if request.WhichOneof("target_change") == "add_target":
                added = make(request)
                targets[added.number] = added
            elif request.WhichOneof("target_change") == "remove_target":
                targets.pop(request.remove_target, None)
            else:
                raise invalid("A ListenRequest neither adds nor removes a target.")
            changed.set()
    finally:
        changed.set()
