"""What the Pub/Sub tests share: real clients, an endpoint that records, and waiting."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from google.cloud import pubsub_v1
from nsps_testing.waiting import wait_for

PROJECT = "conformance"
_numbers = count(1)


class Rig:
    """The real clients on one server, with names that no other test uses.

    `control_url`: of the embedded server; "" for Google's emulator.
    """

    def __init__(self, target: str, control_url: str = "") -> None:
        self.target = target
        self.control_url = control_url
        before = os.environ.get("PUBSUB_EMULATOR_HOST")
        os.environ["PUBSUB_EMULATOR_HOST"] = target
        try:
            settings = pubsub_v1.types.BatchSettings(max_messages=1)
            self.publisher = pubsub_v1.PublisherClient(batch_settings=settings)
            self.subscriber = pubsub_v1.SubscriberClient()
        finally:
            if before is None:
                del os.environ["PUBSUB_EMULATOR_HOST"]
            else:
                os.environ["PUBSUB_EMULATOR_HOST"] = before

    def close(self) -> None:
        self.subscriber.close()
        self.publisher.transport.close()

    def topic(self, **settings: Any) -> str:
        name = f"projects/{PROJECT}/topics/topic-{next(_numbers)}"
        self.publisher.create_topic(request={"name": name, **settings})
        return name

    def subscription(self, topic: str, **settings: Any) -> str:
        name = self.unused_subscription()
        self.subscriber.create_subscription(request={"name": name, "topic": topic, **settings})
        return name

    def unused_subscription(self) -> str:
        return f"projects/{PROJECT}/subscriptions/subscription-{next(_numbers)}"

    def pair(self, **settings: Any) -> tuple[str, str]:
        topic = self.topic()
        return topic, self.subscription(topic, **settings)

    def publish(self, topic: str, data: bytes = b"x", **attributes: str) -> str:
        return str(self.publisher.publish(topic, data, **attributes).result(timeout=10))

    def pull(self, subscription: str, most: int = 10, seconds: float = 5.0) -> list[Any]:
        """What is there; waits for something at most `seconds`."""

        def some() -> list[Any]:
            answer = self.subscriber.pull(
                request={
                    "subscription": subscription,
                    "max_messages": most,
                    "return_immediately": True,
                }
            )
            return list(answer.received_messages)

        deadline = time.monotonic() + seconds
        while not (found := some()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def pull_one(self, subscription: str, seconds: float = 5.0) -> Any:
        found = self.pull(subscription, 1, seconds)
        assert found, f"nothing came within {seconds} s"
        return found[0]

    def ack(self, subscription: str, *received: Any) -> None:
        ids = [one.ack_id for one in received]
        self.subscriber.acknowledge(request={"subscription": subscription, "ack_ids": ids})

    def nack(self, subscription: str, *received: Any, seconds: int = 0) -> None:
        self.subscriber.modify_ack_deadline(
            request={
                "subscription": subscription,
                "ack_ids": [one.ack_id for one in received],
                "ack_deadline_seconds": seconds,
            }
        )

    # -- the control port

    def control(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.control_url + path, data, timeout=10) as answer:
            return json.load(answer)

    def figures(self, subscription: str) -> dict[str, Any]:
        return dict(self.control("/metrics")["subscriptions"][subscription])

    def advance(self, seconds: float) -> None:
        self.control("/clock", {"advance": seconds})

    def faults(self, target: str, **faults: Any) -> None:
        self.control("/faults", {"target": target, "faults": faults})


@dataclass
class Post:
    """One request that an endpoint received."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Endpoint:
    """A push endpoint that keeps what it gets and answers as `answer` says.

    `answer(post)` gives a status, or raises ConnectionError to break the connection.
    """

    def __init__(self, answer: Callable[[Post], int]) -> None:
        self.posts: list[Post] = []
        self.answer = answer
        self.connections = 0
        self.busy = 0
        self.peak = 0
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                endpoint.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                post = Post(self.path, headers, body)
                with lock:
                    endpoint.posts.append(post)
                    endpoint.busy += 1
                    endpoint.peak = max(endpoint.peak, endpoint.busy)
                try:
                    status = endpoint.answer(post)
                except ConnectionError:
                    self.close_connection = True
                    return
                finally:
                    with lock:
                        endpoint.busy -= 1
                self.send_response(status)
                if status not in {102, 204}:
                    self.send_header("Content-Length", "2")
                self.end_headers()
                if status not in {102, 204}:
                    self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                """A push that was cut off is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/push"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, number: int, seconds: float = 10.0) -> list[Post]:
        """The first `number` posts, once they are there."""
        wait_for(lambda: len(self.posts) >= number, seconds, f"{number} posts")
        return self.posts[:number]


@contextmanager
def endpoint(answer: Callable[[Post], int] = lambda _: 200) -> Iterator[Endpoint]:
    server = Endpoint(answer)
    try:
        yield server
    finally:
        server.close()
