"""The gRPC surface of the embedded Pub/Sub, and `PubSubServer`, which runs it inside
another program.

The methods of google.pubsub.v1.Publisher and Subscriber, without generated code: generic handlers
over the client library's own message types. What NSPS does not use (ordering, exactly-once,
schemas, snapshots, exports) is refused as UNIMPLEMENTED and says so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

from nsps_local.control import Route
from nsps_local.grpc_server import EmbeddedServer, Refused, decoder, encode, readable, unary
from nsps_local.pubsub.backlog import Lease
from nsps_local.pubsub.broker import Broker, Subscription
from nsps_local.pubsub.control import Control
from nsps_local.pubsub.identities import EVERYBODY, Identities
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.pubsub.resources import check_deadline, check_publish, invalid, unimplemented
from nsps_local.pubsub.store import Store

_MAX_PULL_BYTES = 3_500_000  # the client's channel to an emulator takes 4 MB
_PULL_WAIT = 20.0
_ACK_ID = re.compile(r"(\d{1,9})-(\d{1,18})-(\d{1,18})")
PUSH_WINDOW = 128


class _Calls:
    """One method per RPC: a request in, an answer out, or `Refused`."""

    def __init__(self) -> None:
        self.broker: Broker | None = None

    @property
    def _broker(self) -> Broker:
        if self.broker is None:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "The broker is starting or stopping.")
        return self.broker

    # -- Publisher

    async def create_topic(self, request: Any, _: Any) -> Any:
        return self._broker.create_topic(request)

    async def update_topic(self, request: Any, _: Any) -> Any:
        return self._broker.update_topic(request)

    async def get_topic(self, request: Any, _: Any) -> Any:
        return self._broker.topic(request.topic).pb

    async def delete_topic(self, request: Any, _: Any) -> Any:
        self._broker.delete_topic(request.topic)
        return Empty()

    async def publish(self, request: Any, _: Any) -> Any:
        check_publish(request)
        ids = await self._broker.publish(request.topic, request.messages)
        return types.PublishResponse.pb()(message_ids=ids)

    async def list_topics(self, request: Any, _: Any) -> Any:
        names = [n for n in self._broker.topics if n.startswith(f"{request.project}/")]
        page, token = _page(names, request)
        topics = [self._broker.topics[name].pb for name in page]
        return types.ListTopicsResponse.pb()(topics=topics, next_page_token=token)

    async def list_topic_subscriptions(self, request: Any, _: Any) -> Any:
        names, token = _page(list(self._broker.topic(request.topic).subscriptions), request)
        answer = types.ListTopicSubscriptionsResponse.pb()
        return answer(subscriptions=names, next_page_token=token)

    async def detach_subscription(self, request: Any, _: Any) -> Any:
        self._broker.detach(request.subscription)
        return types.DetachSubscriptionResponse.pb()()

    # -- Subscriber

    async def create_subscription(self, request: Any, _: Any) -> Any:
        return self._broker.create_subscription(request)

    async def get_subscription(self, request: Any, _: Any) -> Any:
        return self._broker.subscription(request.subscription).pb

    async def update_subscription(self, request: Any, _: Any) -> Any:
        return self._broker.update_subscription(request)

    async def list_subscriptions(self, request: Any, _: Any) -> Any:
        names = [n for n in self._broker.subscriptions if n.startswith(f"{request.project}/")]
        page, token = _page(names, request)
        found = [self._broker.subscriptions[name].pb for name in page]
        return types.ListSubscriptionsResponse.pb()(subscriptions=found, next_page_token=token)

    async def delete_subscription(self, request: Any, _: Any) -> Any:
        self._broker.delete_subscription(request.subscription)
        return Empty()

    async def modify_push_config(self, request: Any, _: Any) -> Any:
        self._broker.modify_push_config(request.subscription, request.push_config)
        return Empty()

    async def modify_ack_deadline(self, request: Any, _: Any) -> Any:
        subscription = self._broker.subscription(request.subscription)
        seconds = request.ack_deadline_seconds
        if not 0 <= seconds <= 600:
            raise invalid(f"ack_deadline_seconds is {seconds}; it must be from 0 to 600.")
        ids = _ack_ids(subscription, request.ack_ids)
        self._broker.modify_deadline(request.subscription, ids, [seconds] * len(ids))
        return Empty()

    async def acknowledge(self, request: Any, _: Any) -> Any:
        subscription = self._broker.subscription(request.subscription)
        self._broker.ack(request.subscription, _ack_ids(subscription, request.ack_ids))
        await self._broker.flushed()
        return Empty()

    async def pull(self, request: Any, context: Any) -> Any:
        subscription = _pullable(self._broker.subscription(request.subscription))
        if request.max_messages < 1:
            raise invalid("max_messages must be at least 1.")
        puller = _Puller(subscription, min(request.max_messages, 1000), self._broker)
        self._broker.join(subscription, puller)
        try:
            if not request.return_immediately:
                await puller.wait(context.time_remaining())
        except asyncio.CancelledError:
            self._broker.leave(subscription, puller)
            puller.give_back()
            raise
        self._broker.leave(subscription, puller)
        if not puller.received:
            _pullable(self._broker.subscription(request.subscription))
        return types.PullResponse.pb()(received_messages=puller.received)

    async def seek(self, request: Any, _: Any) -> Any:
        if not request.HasField("time"):
            raise unimplemented("snapshots")
        self._broker.seek(request.subscription, request.time.ToMicroseconds() / 1e6)
        return types.SeekResponse.pb()()

    async def streaming_pull(self, context: Any) -> None:
        """Serve one stream until the client leaves or the subscription is taken away."""
        first = readable(await context.read())
        if first is grpc.aio.EOF:
            return
        subscription = _pullable(self._broker.subscription(first.subscription))
        check_deadline(first.stream_ack_deadline_seconds)
        stream = _Stream(subscription, first, self._broker)
        self._broker.join(subscription, stream)
        listener = asyncio.create_task(self._listen(stream, context))
        try:
            await stream.send(context, listener)
        finally:
            listener.cancel()
            self._broker.leave(subscription, stream)

    async def _listen(self, stream: _Stream, context: Any) -> None:
        request = readable(await context.read())
        while request is not grpc.aio.EOF:
            name = stream.subscription.name
            if request.stream_ack_deadline_seconds:
                check_deadline(request.stream_ack_deadline_seconds)
                stream.deadline = float(request.stream_ack_deadline_seconds)
            if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
                raise invalid("modify_deadline_ack_ids and _seconds must be equally long.")
            if request.ack_ids:
                self._broker.ack(name, _ack_ids(stream.subscription, request.ack_ids))
            if any(not 0 <= seconds <= 600 for seconds in request.modify_deadline_seconds):
                raise invalid("modify_deadline_seconds must be from 0 to 600.")
            if request.modify_deadline_ack_ids:
                ids = _ack_ids(stream.subscription, request.modify_deadline_ack_ids)
                self._broker.modify_deadline(name, ids, list(request.modify_deadline_seconds))
            request = readable(await context.read())


class _Puller:
    """One unary pull: takes what there is, or waits for the first messages."""

    deadline: float | None = None

    def __init__(self, subscription: Subscription, limit: int, broker: Broker) -> None:
        self.received: list[Any] = []
        self._subscription = subscription
        self._broker = broker
        self._limit = limit
        self._leases: list[Lease] = []
        self._filled = asyncio.Event()

    def room(self) -> int:
        return 0 if self.received else self._limit

    def deliver(self, leases: list[Lease], messages: list[Any]) -> None:
        kept = _fitting(messages)
        self._leases = leases[:kept]
        self._release([lease for lease in leases[kept:] if lease not in self._leases])
        self.received = _received(self._subscription, leases[:kept], messages[:kept])
        self._filled.set()

    async def wait(self, remaining: float | None) -> None:
        seconds = _PULL_WAIT if remaining is None else min(_PULL_WAIT, remaining * 0.9)
        try:
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        except TimeoutError:
            return

    def look_again(self) -> None:
        self._filled.set()

    def give_back(self) -> None:
        """The client has gone: what was taken for it is delivered to others."""
        self._release(self._leases)
        self._broker.pump(self._subscription)

    def _release(self, leases: list[Lease]) -> None:
        for lease in reversed(leases):
            self._subscription.backlog.release(lease.mid, lease.token)


class _Stream:
    """One streaming pull: keeps to the client's flow control."""

    def __init__(self, subscription: Subscription, first: Any, broker: Broker) -> None:
        self.subscription = subscription
        self.deadline: float | None = float(first.stream_ack_deadline_seconds)
        self._broker = broker
        self._most = first.max_outstanding_messages or 1_000_000
        self._most_bytes = first.max_outstanding_bytes or 1 << 40
        self._outstanding = 0
        self._bytes = 0
        self._queue: list[Any] = []
        self._wake = asyncio.Event()

    def room(self) -> int:
        if self._queue or self._bytes >= self._most_bytes:
            return 0
        return min(self._most - self._outstanding, 100)

    def deliver(self, leases: list[Lease], messages: list[Any]) -> None:
        for lease, message in zip(leases, messages, strict=True):
            if lease.ended is None:
                lease.ended, lease.size = self._ended, message.ByteSize()
                self._outstanding += 1
                self._bytes += lease.size
        self._queue += _received(self.subscription, leases, messages)
        self._wake.set()

    def look_again(self) -> None:
        self._wake.set()

    def _ended(self, lease: Lease, how: str) -> None:
        self._outstanding -= 1
        self._bytes -= lease.size

    async def send(self, context: Any, listener: asyncio.Task[None]) -> None:
        """Write what arrives until the client has no more to say. Raises Refused."""
        listener.add_done_callback(lambda _: self._wake.set())
        answer = types.StreamingPullResponse.pb()
        while True:
            self._wake.clear()  # before looking: what happens meanwhile wakes again
            if listener.done():
                break
            _pullable(self._broker.subscription(self.subscription.name))
            while self._queue:
                some = _fitting([received.message for received in self._queue])
                batch, self._queue = self._queue[:some], self._queue[some:]
                await context.write(answer(received_messages=batch))
            self._broker.pump(self.subscription)
            if not self._queue:
                await self._wake.wait()
        listener.result()


def _pullable(subscription: Subscription) -> Subscription:
    if subscription.pb.detached:
        raise Refused(
            grpc.StatusCode.FAILED_PRECONDITION, f"Subscription {subscription.name} is detached."
        )
    if subscription.pushes:
        raise Refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "This method is not supported for this subscription type: it has a push endpoint.",
        )
    return subscription


def _received(subscription: Subscription, leases: list[Lease], messages: list[Any]) -> list[Any]:
    counted = subscription.pb.HasField("dead_letter_policy")
    received = types.ReceivedMessage.pb()
    return [
        received(
            ack_id=f"{subscription.sid}-{lease.mid}-{lease.token}",
            message=message,
            delivery_attempt=lease.attempt if counted else 0,
        )
        for lease, message in zip(leases, messages, strict=True)
    ]


def _fitting(messages: list[Any]) -> int:
    """How many messages go into one answer: at least one."""
    total = 0
    for position, message in enumerate(messages):
        total += message.ByteSize() + 64
        if total > _MAX_PULL_BYTES:
            return max(position, 1)
    return len(messages)


def _ack_ids(subscription: Subscription, ack_ids: Any) -> list[tuple[int, int]]:
    if not ack_ids:
        raise invalid("No ack ids specified.")
    parsed = []
    for ack_id in ack_ids:
        match = _ACK_ID.fullmatch(ack_id)
        if match is None or int(match[1]) != subscription.sid:
            raise invalid(f"Invalid ack id (ack_id={ack_id[:80]}): not of this subscription.")
        parsed.append((int(match[2]), int(match[3])))
    return parsed


def _page(names: list[str], request: Any) -> tuple[list[str], str]:
    size = request.page_size if 0 < request.page_size <= 1000 else 1000
    later = sorted(name for name in names if name > request.page_token)
    return later[:size], later[size - 1] if len(later) > size else ""


# -- gRPC

_REQUESTS: dict[str, dict[str, Any]] = {
    "google.pubsub.v1.Publisher": {
        "CreateTopic": types.Topic,
        "UpdateTopic": types.UpdateTopicRequest,
        "Publish": types.PublishRequest,
        "GetTopic": types.GetTopicRequest,
        "ListTopics": types.ListTopicsRequest,
        "ListTopicSubscriptions": types.ListTopicSubscriptionsRequest,
        "DeleteTopic": types.DeleteTopicRequest,
        "DetachSubscription": types.DetachSubscriptionRequest,
    },
    "google.pubsub.v1.Subscriber": {
        "CreateSubscription": types.Subscription,
        "GetSubscription": types.GetSubscriptionRequest,
        "UpdateSubscription": types.UpdateSubscriptionRequest,
        "ListSubscriptions": types.ListSubscriptionsRequest,
        "DeleteSubscription": types.DeleteSubscriptionRequest,
        "ModifyAckDeadline": types.ModifyAckDeadlineRequest,
        "Acknowledge": types.AcknowledgeRequest,
        "Pull": types.PullRequest,
        "ModifyPushConfig": types.ModifyPushConfigRequest,
        "Seek": types.SeekRequest,
    },
}


def _handlers(service: _Calls) -> list[Any]:
    handlers: list[Any] = []
    for full_name, requests in _REQUESTS.items():
        methods = {
            name: unary(request.pb(), getattr(service, _snake(name)))
            for name, request in requests.items()
        }
        if full_name.endswith("Subscriber"):
            methods["StreamingPull"] = _both_ways(service.streaming_pull)
        handlers.append(grpc.method_handlers_generic_handler(full_name, methods))
    return [*handlers, _NotEmbedded()]


def _both_ways(method: Callable[[Any], Awaitable[None]]) -> Any:
    async def call(_requests: Any, context: Any) -> None:
        try:
            await method(context)
        except Refused as refusal:
            await context.abort(refusal.code, refusal.text)

    return grpc.stream_stream_rpc_method_handler(
        call, decoder(types.StreamingPullRequest.pb()), encode
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


class _NotEmbedded(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers whatever is left: schemas, snapshots, IAM."""

    def service(self, call: Any) -> Any:
        async def refuse(_request: bytes, context: Any) -> None:
            refusal = unimplemented(call.method.rpartition("/")[2])
            await context.abort(refusal.code, refusal.text)

        return grpc.unary_unary_rpc_method_handler(refuse)


# -- running


class PubSubService:
    """The broker on its state directory, as `grpc_server` runs it.

    `start` raises OSError: the directory is in use or cannot be used.
    """

    def __init__(
        self,
        state_dir: Path,
        push_window: int = PUSH_WINDOW,
        identities: Identities = EVERYBODY,
    ) -> None:
        self._state_dir = state_dir
        self._identities = identities
        self._push_window = push_window
        self._calls = _Calls()
        self._control = Control()

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        return _handlers(self._calls)

    def routes(self) -> Mapping[tuple[str, str], Route]:
        return self._control.routes()

    async def start(self) -> None:
        store = Store(self._state_dir)
        tokens = TokenIssuer(self._state_dir)
        broker = Broker(store, tokens, self._push_window, self._identities)
        self._calls.broker = self._control.broker = broker
        self._control.tokens = tokens

    def dismiss(self) -> None:
        """End the streams and pulls that wait; called before `stop`."""
        if self._control.broker is not None:
            self._control.broker.dismiss()

    async def stop(self) -> None:
        broker, self._control.broker = self._control.broker, None
        if broker is not None:
            broker.close()


class PubSubServer(EmbeddedServer):
    """The embedded Pub/Sub in a thread of this process.

        with PubSubServer(directory) as server:
            os.environ["PUBSUB_EMULATOR_HOST"] = server.target
            urlopen(server.control_url + "/metrics")

    `port`, `control_port`: 0 for any free one. `push_window`: most pushes outstanding per
    subscription. `identities`: who exists and may call what (by default everybody everything).
    `start` raises PortBusyError, or OSError where the directory cannot be used. What was
    accepted stays in `state_dir` for the next start.
    """

    def __init__(
        self,
        state_dir: str | Path,
        port: int = 0,
        control_port: int = 0,
        host: str = "127.0.0.1",
        push_window: int = PUSH_WINDOW,
        identities: Identities = EVERYBODY,
    ) -> None:
        super().__init__(
            lambda: PubSubService(Path(state_dir), push_window, identities),
            host=host,
            port=port,
            control_port=control_port,
        )
