"""The gRPC surface of the embedded Pub/Sub, and `PubSubServer`, which runs it in a thread.

The methods of google.pubsub.v1.Publisher and Subscriber, without generated code: generic handlers
over the client library's own message types. What NSPS does not use (ordering, exactly-once,
schemas, snapshots, exports) is refused as UNIMPLEMENTED and says so.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

from nsps_local.pubsub.backlog import Lease
from nsps_local.pubsub.broker import Broker, Subscription
from nsps_local.pubsub.control import Control
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.pubsub.resources import (
    Refused,
    check_deadline,
    check_publish,
    invalid,
    unimplemented,
)
from nsps_local.pubsub.store import Store

_MAX_PULL_BYTES = 3_500_000  # the client's channel to an emulator takes 4 MB
_PULL_WAIT = 20.0
_ACK_ID = re.compile(r"(\d{1,9})-(\d{1,18})-(\d{1,18})")
_CHANNEL_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a port that is in use must be refused
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", 32 << 20),
    # The client pings an idle stream more often than gRPC's servers tolerate by default.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class PortInUseError(OSError):
    """Somebody else listens where the server should."""


class Service:
    """One method per RPC: a request in, an answer out, or `Refused`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

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
            puller.give_back()
            raise
        finally:
            self._broker.leave(subscription, puller)
        return types.PullResponse.pb()(received_messages=puller.received)

    async def seek(self, request: Any, _: Any) -> Any:
        if not request.HasField("time"):
            raise unimplemented("snapshots")
        self._broker.seek(request.subscription, request.time.ToMicroseconds() / 1e6)
        return types.SeekResponse.pb()()

    async def streaming_pull(self, requests: Any, context: Any) -> None:
        """Serve one stream until the client leaves or the subscription is taken away."""
        first = await requests.read()
        if first is grpc.aio.EOF:
            return
        subscription = _pullable(self._broker.subscription(first.subscription))
        check_deadline(first.stream_ack_deadline_seconds)
        stream = _Stream(subscription, first, self._broker)
        self._broker.join(subscription, stream)
        listener = asyncio.create_task(self._listen(stream, requests))
        try:
            await stream.send(context, listener)
        finally:
            listener.cancel()
            self._broker.leave(subscription, stream)

    async def _listen(self, stream: _Stream, requests: Any) -> None:
        request = await requests.read()
        while request is not grpc.aio.EOF:
            name = stream.subscription.name
            if request.stream_ack_deadline_seconds:
                check_deadline(request.stream_ack_deadline_seconds)
                stream.deadline = float(request.stream_ack_deadline_seconds)
            if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
                raise invalid("modify_deadline_ack_ids and _seconds must be equally long.")
            if request.ack_ids:
                self._broker.ack(name, _ack_ids(stream.subscription, request.ack_ids))
            if request.modify_deadline_ack_ids:
                ids = _ack_ids(stream.subscription, request.modify_deadline_ack_ids)
                self._broker.modify_deadline(name, ids, list(request.modify_deadline_seconds))
            request = await requests.read()


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
        for lease in leases[kept:]:
            self._subscription.backlog.release(lease.mid, lease.token)
        self._leases = leases[:kept]
        self.received = _received(self._subscription, leases[:kept], messages[:kept])
        self._filled.set()

    async def wait(self, remaining: float | None) -> None:
        seconds = _PULL_WAIT if remaining is None else min(_PULL_WAIT, remaining * 0.9)
        try:
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        except TimeoutError:
            return

    def give_back(self) -> None:
        """The client has gone: what was taken for it is delivered to others."""
        for lease in self._leases:
            self._subscription.backlog.release(lease.mid, lease.token)
        self._broker.pump(self._subscription)


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
        self._pumping = False

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

    def _ended(self, lease: Lease, how: str) -> None:
        self._outstanding -= 1
        self._bytes -= lease.size

    async def send(self, context: Any, listener: asyncio.Task[None]) -> None:
        """Write what arrives until the client has no more to say. Raises Refused."""
        listener.add_done_callback(lambda _: self._wake.set())
        answer = types.StreamingPullResponse.pb()
        while not listener.done():
            while self._queue:
                some = _fitting([received.message for received in self._queue])
                batch, self._queue = self._queue[:some], self._queue[some:]
                await context.write(answer(received_messages=batch))
            self._broker.pump(self.subscription)
            if not self._queue:
                await self._wait()
        listener.result()

    async def _wait(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(1.0):
                await self._wake.wait()
        except TimeoutError:
            self._still_served()

    def _still_served(self) -> None:
        """A subscription may be deleted, detached or become a push subscription meanwhile."""
        _pullable(self._broker.subscription(self.subscription.name))


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
Call = Callable[[Any, Any], Awaitable[Any]]


def _answering(method: Call) -> Call:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await method(request, context)
        except Refused as refusal:
            await context.abort(refusal.code, refusal.text)

    return call


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _handlers(service: Service) -> list[Any]:
    handlers: list[Any] = []
    for full_name, requests in _REQUESTS.items():
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                _answering(getattr(service, _snake(name))),
                request_deserializer=request.pb().FromString,
                response_serializer=_serialize,
            )
            for name, request in requests.items()
        }
        if full_name.endswith("Subscriber"):
            methods["StreamingPull"] = grpc.stream_stream_rpc_method_handler(
                _answering(lambda _requests, context: service.streaming_pull(context, context)),
                request_deserializer=types.StreamingPullRequest.pb().FromString,
                response_serializer=_serialize,
            )
        handlers.append(grpc.method_handlers_generic_handler(full_name, methods))
    return [*handlers, _NotEmbedded()]


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


class _NotEmbedded(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers whatever is left: schemas, snapshots, IAM."""

    def service(self, call: Any) -> Any:
        async def refuse(_request: bytes, context: Any) -> bytes:
            refusal = unimplemented(call.method.rpartition("/")[2])
            await context.abort(refusal.code, refusal.text)
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


async def serve(
    state_dir: Path, host: str, port: int, control_port: int, push_window: int
) -> Running:
    """Start everything in the running loop. Raises PortInUseError."""
    store = Store(state_dir)
    tokens = TokenIssuer(state_dir)
    broker = Broker(store, tokens, push_window)
    server = grpc.aio.server(options=_CHANNEL_OPTIONS)
    server.add_generic_rpc_handlers(tuple(_handlers(Service(broker))))
    control = Control(broker, tokens)
    try:
        bound = _bind(server, host, port)
        bound_control = await control.start(host, control_port)
    except OSError:
        broker.close()
        raise
    await server.start()
    return Running(broker, server, control, f"{host}:{bound}", f"http://{host}:{bound_control}")


def _bind(server: Any, host: str, port: int) -> int:
    try:
        bound = int(server.add_insecure_port(f"{host}:{port}"))
    except RuntimeError:
        bound = 0
    if not bound:
        raise PortInUseError(
            f"Port {port} on {host} cannot be used: another program listens there."
            " Stop it, or choose another --port."
        )
    return bound


class Running:
    """A server at work, in the loop that started it."""

    def __init__(
        self, broker: Broker, server: Any, control: Control, target: str, control_url: str
    ) -> None:
        self.broker = broker
        self.target = target
        self.control_url = control_url
        self._server = server
        self._control = control

    async def stop(self) -> None:
        await self._control.stop()
        await self._server.stop(grace=0.5)
        self.broker.close()


class PubSubServer:
    """The embedded Pub/Sub in a thread of this process.

        server = PubSubServer(directory)
        server.start()
        os.environ["PUBSUB_EMULATOR_HOST"] = server.target
        ...
        server.stop()

    `port`, `control_port`: 0 for any free one. `push_window`: most pushes outstanding per
    subscription. `start` raises PortInUseError.
    """

    def __init__(
        self,
        state_dir: str | Path,
        port: int = 0,
        control_port: int = 0,
        host: str = "127.0.0.1",
        push_window: int = 128,
    ) -> None:
        self.target = ""
        self.control_url = ""
        self._arguments = (Path(state_dir), host, port, control_port, push_window)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> PubSubServer:
        self._thread = threading.Thread(target=self._run, name="pubsub", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error:
            self._thread.join()
            raise self._error
        return self

    def stop(self) -> None:
        """Stop; what was accepted stays on disk for the next start."""
        if self._loop and self._stop and self._thread and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> PubSubServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._error = error
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        running = await serve(*self._arguments)
        self.target, self.control_url = running.target, running.control_url
        self._ready.set()
        await self._stop.wait()
        await running.stop()
