"""Push delivery: the request for a message, and how many may be under way at once."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nsps_local.pubsub.backlog import Lease
from nsps_local.pubsub.http_client import PushClient
from nsps_local.pubsub.identities import Identities
from nsps_local.pubsub.oidc import TokenIssuer

SUCCESS = frozenset({102, 200, 201, 202, 204})
FORBIDDEN = 403
"""What Google answers, before a function hears of it, to whoever may not call it."""
_BACKOFF_MIN, _BACKOFF_MAX = 0.1, 60.0
_NOT_IN_HEADERS = re.compile(r"[^\x20-\x7e\x80-\U0010ffff]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(slots=True)
class Window:
    """How many pushes may be outstanding: grows with any success, shrinks with any failure.

    Source: Pub/Sub docs, "Push subscriptions", delivery rate: it starts at a small, single-digit
    size and grows exponentially. It is never smaller than at its start: a call that hangs would
    otherwise hold up every other. `largest`, `start`: requests.
    """

    largest: int = 128
    start: int = 8
    size: float = 0.0

    def __post_init__(self) -> None:
        self.start = min(self.start, self.largest)
        self.size = float(self.start)

    def succeeded(self) -> None:
        self.size = min(self.size + 1.0, float(self.largest))

    def failed(self) -> None:
        self.size = max(self.size * 0.7, float(self.start))

    def room(self, in_flight: int) -> int:
        return max(int(self.size) - in_flight, 0)


@dataclass(slots=True)
class PushBackoff:
    """Without a retry policy, nacks pause the whole subscription: 100 ms doubling to 60 s.

    Source: Pub/Sub docs, "Push subscriptions", push backoff.
    """

    pause: float = 0.0
    until: float = 0.0

    def failed(self, now: float) -> None:
        if now >= self.until:
            self.pause = min(max(self.pause * 2, _BACKOFF_MIN), _BACKOFF_MAX)
            self.until = now + self.pause

    def succeeded(self) -> None:
        self.pause = self.until = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """`admitted`: whether the account of the push may call the URL at all."""

    url: str
    headers: dict[str, str]
    body: bytes
    admitted: bool = True


def account_of(subscription: Any) -> str:
    """The service account in whose name a subscription pushes; "": in nobody's."""
    return str(subscription.push_config.oidc_token.service_account_email)


def request_for(
    subscription: Any, message: Any, attempt: int, tokens: TokenIssuer, identities: Identities
) -> Request:
    """The HTTP request that delivers a message to the subscription's endpoint.

    Wrapped: {"message": {"data" (base64), "attributes", "messageId", "message_id", "publishTime",
    "publish_time", "orderingKey"}, "subscription", "deliveryAttempt" (with dead letters only)}.
    """
    push = subscription.push_config
    published = timestamp(message)
    if push.HasField("no_wrapper"):
        headers = _metadata(subscription, message) if push.no_wrapper.write_metadata else {}
        body = message.data
    else:
        headers = {"Content-Type": "application/json"}
        inner: dict[str, Any] = {"data": base64.b64encode(message.data).decode()}
        if message.attributes:
            inner["attributes"] = dict(message.attributes)
        inner |= {"messageId": message.message_id, "message_id": message.message_id}
        inner |= {"publishTime": published, "publish_time": published}
        if message.ordering_key:
            inner["orderingKey"] = message.ordering_key
        outer: dict[str, Any] = {"message": inner, "subscription": subscription.name}
        if subscription.HasField("dead_letter_policy"):
            outer["deliveryAttempt"] = attempt
        body = json.dumps(outer, separators=(",", ":")).encode()
    if push.HasField("oidc_token"):
        audience = push.oidc_token.audience or push.push_endpoint
        token = tokens.token(account_of(subscription), audience)
        headers["Authorization"] = f"Bearer {token}"
    admitted = identities.admits(account_of(subscription), push.push_endpoint)
    return Request(push.push_endpoint, headers, body, admitted)


def timestamp(message: Any) -> str:
    """Publish time as in JSON: UTC, milliseconds, Z."""
    stamp = message.publish_time
    when = datetime.fromtimestamp(stamp.seconds, UTC).replace(microsecond=stamp.nanos // 1000)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _metadata(subscription: Any, message: Any) -> dict[str, str]:
    headers = {
        name: _NOT_IN_HEADERS.sub(" ", value)
        for name, value in message.attributes.items()
        if _HEADER_NAME.fullmatch(name) and name.lower() not in _OWN_HEADERS
    }
    headers["x-goog-pubsub-subscription-name"] = subscription.name
    headers["x-goog-pubsub-message-id"] = message.message_id
    headers["x-goog-pubsub-publish-time"] = timestamp(message)
    if message.ordering_key:
        headers["x-goog-pubsub-ordering-key"] = _NOT_IN_HEADERS.sub(" ", message.ordering_key)
    return headers


_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class Pusher:
    """The pushes of one subscription that are under way."""

    def __init__(
        self, client: PushClient, window: Window, done: Callable[[Lease, int | None], None]
    ) -> None:
        """`done`: called with each answer, the status or None (nothing, or a broken connection);
        not called for a push whose lease ended first."""
        self.window = window
        self.backoff = PushBackoff()
        self.full_since: float | None = None
        """Since when messages have been ready and no push could be made nor was answered."""
        self._client = client
        self._done = done
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def room(self) -> int:
        return self.window.room(len(self._tasks))

    def start(self, lease: Lease, request: Request, copies: int = 1) -> None:
        lease.ended = self._ended
        task = asyncio.get_running_loop().create_task(self._push(lease, request, copies))
        self._tasks[lease.token] = task

    def stop(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    async def _push(self, lease: Lease, request: Request, copies: int) -> None:
        posts = [self._post(request) for _ in range(copies)]
        try:
            statuses = [await posts[0]] if copies == 1 else await asyncio.gather(*posts)
        finally:
            self._tasks.pop(lease.token, None)
        status = next((s for s in statuses if s in SUCCESS), statuses[0])
        if status in SUCCESS:
            self.window.succeeded()
        else:
            self.window.failed()
        lease.ended = None
        self._done(lease, status)

    async def _post(self, request: Request) -> int | None:
        if not request.admitted:
            return FORBIDDEN
        try:
            return await self._client.post(request.url, request.headers, request.body)
        except OSError:
            return None

    def _ended(self, lease: Lease, how: str) -> None:
        """The lease is over while the endpoint still works on it: too slow, or purged."""
        task = self._tasks.pop(lease.token, None)
        if task:
            task.cancel()
        if how == "expired":
            self.window.failed()
