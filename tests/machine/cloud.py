"""The cloud of the machine: embedded Firestore and Pub/Sub, and how functions reach everything.

One for all histories of a process; each history has a project of its own in it, and an emptied
PortaBilling, so it costs no start. What the product calls is real (clients, ledger, flows); where
it would leave the process (HTTP to PortaBilling and to other functions) it stays in it, and stops
on the way.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import grpc
import nsps.cloud.messages
import nsps.cloud.store
import nsps.console.api
import nsps.console.reconcile
import nsps.console.replay
import nsps.flows.maintenance
import nsps.flows.retries
from google.cloud import firestore
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from nsps.cloud.messages import Publisher
from nsps.cloud.store import Store, StoreUnavailable
from nsps.delivery.gate import Gate
from nsps.domain.outcome import NoAnswer, Transient
from nsps.transport.deadline import Deadline
from nsps.transport.http import Answer, Http
from nsps_local.firestore import FirestoreServer
from nsps_local.pubsub.server import PubSubServer
from nsps_local.sandbox import Sandbox

from tests.machine import steps
from tests.machine.clock import Clock, moved
from tests.machine.steps import Go

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"
HERE = Path(__file__).resolve().parent
API_SECRET = {"login": "nsps", "password": "sandbox-password"}
WEBHOOK_SECRET = {"user": "espf", "password": "webhook-password"}
ENVIRON = {
    "MACHINE_DIGEST": "a key of the machine, 32 bytes long",
    "MACHINE_API": json.dumps(API_SECRET),
    "MACHINE_WEBHOOK": json.dumps(WEBHOOK_SECRET),
}

Reach = Callable[..., Answer]
"""How an HTTP request is answered: (verb, url, headers, body) -> Answer."""


class Inline:
    """An executor that does it at once, in the attempt's own thread: stops reach it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, do: Callable[..., Any], *given: Any) -> Iterator[Any]:
        return iter([do(*each) for each in zip(*given, strict=False)])

    def submit(self, do: Callable[..., Any], *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(do(*given, **named))
        return done


class SteppedStore(Store):
    """Firestore, with a stop after each commit; one fails, or loses its answer, on demand."""

    def transact_on(self, known: Any, body: Callable[..., Any], **options: Any) -> Any:
        return _committed(lambda: super(SteppedStore, self).transact_on(known, body, **options))

    def create(self, reference: Any, fields: dict[str, Any]) -> Any:
        return _committed(lambda: super(SteppedStore, self).create(reference, fields))

    def merge(self, reference: Any, fields: dict[str, Any]) -> Any:
        return _committed(lambda: super(SteppedStore, self).merge(reference, fields))


def _committed(commit: Callable[[], Any]) -> Any:
    attempt = steps.current()
    if attempt is not None and attempt.unrecorded is not None:
        steps.stop("records")
    if steps.fails():
        if attempt is not None:
            attempt.cut()
        raise StoreUnavailable("Firestore is not there")
    result = commit()
    if attempt is not None:
        attempt.unrecorded = None
    if steps.stop("wrote") is Go.LOST:
        raise StoreUnavailable("Firestore's answer was lost")
    return result


class Cloud:
    """Servers, clients, clock; ``world`` is the history that is being played."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.world: Any = None
        self._stack = ExitStack()
        self.modules: dict[str, ModuleType] = {}

    def __enter__(self) -> Cloud:
        enter = self._stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="nsps-machine-")))
        self.firestore = enter(
            FirestoreServer(folder / "firestore", monotonic=self.clock.monotonic)
        )
        pubsub = enter(PubSubServer(folder / "pubsub"))
        self.sandbox = Sandbox(folder / "sandbox", config={"seed": False}, clock=self.clock.wall)
        self._stack.callback(self.sandbox.stop)
        channel = enter(grpc.insecure_channel(pubsub.target))
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        emulators = {
            "PUBSUB_EMULATOR_HOST": pubsub.target,
            "FIRESTORE_EMULATOR_HOST": self.firestore.target,
        }
        enter(mock.patch.dict(os.environ, ENVIRON | emulators))
        self._patch(enter)
        for name in ("ingress", "enrichment", "callbacks", "retries", "console"):
            self.modules[name] = _load(name)
        for name in ("callbacks", "retries"):
            enter(mock.patch.object(self.modules[name], "_FUNCTIONS", HERE))
        enter(mock.patch.object(self.modules["retries"], "Subscriptions", self._endpoints))
        enter(moved(self.clock, self._sleep))
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        self._stack.callback(logging.disable, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _patch(self, enter: Callable[..., Any]) -> None:
        """Where the product would leave the process, or wait for other threads."""
        cloud = self
        real_publish, real_ask = Publisher.publish, Gate._ask

        def request(_: Http, verb: str, url: str, **given: Any) -> Answer:
            return cloud._request(verb, url, **given)

        def publish(self: Publisher, topic: str, *given: Any, **named: Any) -> str:
            return cloud._publish(topic, lambda: real_publish(self, topic, *given, **named))

        def ask(self: Gate) -> None:
            with steps.without_stops():  # it holds the gate's lock
                real_ask(self)

        enter(mock.patch.object(Http, "request", request))
        enter(mock.patch.object(Publisher, "publish", publish))
        enter(mock.patch.object(Gate, "_ask", ask))
        enter(mock.patch.object(nsps.cloud.store, "open_store", lambda *_: self.world.store))
        enter(mock.patch.object(nsps.cloud.messages, "_publisher_client", lambda: self.publisher))
        for module in (
            nsps.flows.retries,
            nsps.flows.maintenance,
            nsps.console.reconcile,
            nsps.console.replay,
        ):
            enter(mock.patch.object(module, "ThreadPoolExecutor", Inline))

    def client(self, project: str) -> firestore.Client:
        return firestore.Client(project=project)

    def _endpoints(self, _: str) -> Any:
        return self.world.endpoints

    @staticmethod
    def _sleep(seconds: float) -> None:
        """Whoever waits is resumed by the machine; pauses between sends take no time."""
        if seconds < 1:
            steps.stop("waits")

    def _publish(self, topic: str, publish: Callable[[], str]) -> str:
        steps.stop("publishes")
        if steps.fails():
            raise Transient("Pub/Sub is not there")
        ident = publish()
        self.world.published.add(topic.rpartition("/")[2])
        if steps.stop("published") is Go.LOST:
            raise Transient("Pub/Sub's answer was lost")
        return ident

    def _request(self, verb: str, url: str, *, deadline: Deadline, **given: Any) -> Answer:
        if "/espf/" not in url:
            return self.world.reach(verb, url, deadline=deadline, **given)  # type: ignore[no-any-return]
        how = steps.stop("posts")
        if how is Go.LATE or deadline.expired:
            raise NoAnswer("ESPF did not answer in time")
        if steps.fails():
            raise Transient("ESPF is not there")
        answer: Answer = self.world.reach(verb, url, deadline=deadline, **given)
        if steps.stop("posted") is Go.LOST or deadline.expired:
            raise NoAnswer("ESPF's answer was lost")
        return answer


def _load(name: str) -> ModuleType:
    file = FUNCTIONS / name / "main.py"
    spec = importlib.util.spec_from_file_location(f"machine_functions.{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.dict(os.environ, values):
        yield
