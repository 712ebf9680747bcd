"""The real ingress in a real process, before an embedded Pub/Sub and Secret Manager."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from google.cloud.secretmanager_v1 import Secret, SecretPayload
from google.cloud.secretmanager_v1.services.secret_manager_service import (
    SecretManagerServiceClient,
)
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from nsps_local.pubsub.server import PubSubServer
from nsps_local.secretmanager import SecretManagerServer
from nsps_testing.faults import ChaosProxy

from tests.end_to_end.function_process import FunctionProcess

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag")

ROOT = Path(__file__).parents[2]
TOPIC = "projects/demo/topics/espf-events"
SUBSCRIPTION = "projects/demo/subscriptions/enrichment"
EVENT = {"event_type": "SIM/Updated", "variables": {"i_env": 3, "i_event": 77, "i_account": 9}}
BODY = json.dumps(EVENT).encode()
PASSWORD, NEXT_PASSWORD, WRONG = "c4nary-secret", "c4nary-next", "c4nary-wrong"


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"espf:{password}".encode()).decode()


class Cloud:
    """The embedded services, Pub/Sub behind a proxy that can fail."""

    def __init__(self, folder: Path) -> None:
        self.pubsub = PubSubServer(folder / "pubsub")
        self.pubsub.start()
        self.secrets = SecretManagerServer(folder / "secrets")
        self.secrets.start()
        host, _, port = self.pubsub.target.partition(":")
        self.proxy = ChaosProxy((host, int(port)))
        channel = grpc.insecure_channel(self.pubsub.target)
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        publisher.create_topic(name=TOPIC)
        self.subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)
        self.manager = SecretManagerServiceClient(
            transport=SecretManagerServiceGrpcTransport(
                channel=grpc.insecure_channel(self.secrets.target)
            )
        )

    def set_secret(self, name: str, value: Any) -> None:
        parent = f"projects/demo/secrets/{name}"
        known = [secret.name for secret in self.manager.list_secrets(parent="projects/demo")]
        if not any(secret.endswith(f"/{name}") for secret in known):
            secret = Secret(replication={"automatic": {}})
            self.manager.create_secret(parent="projects/demo", secret_id=name, secret=secret)
        payload = SecretPayload(data=json.dumps(value).encode())
        self.manager.add_secret_version(parent=parent, payload=payload)

    def pull(self, count: int, seconds: float = 5) -> list[Any]:
        """Messages until there are ``count``, or the time is over."""
        found: list[Any] = []
        ends = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < ends:
            answer = self.subscriber.pull(
                subscription=SUBSCRIPTION, max_messages=100, return_immediately=True
            )
            found += [received.message for received in answer.received_messages]
            if answer.received_messages:
                ack_ids = [received.ack_id for received in answer.received_messages]
                self.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=ack_ids)
            else:
                time.sleep(0.02)
        return found

    def close(self) -> None:
        self.proxy.close()
        self.secrets.stop()
        self.pubsub.stop()


class Function(FunctionProcess):
    """The ingress."""

    def __init__(self, folder: Path, cloud: Cloud, auth: dict[str, Any], **env: str) -> None:
        super().__init__(ROOT / "functions" / "ingress" / "main.py", folder)
        self.environ = {
            "PUBSUB_EMULATOR_HOST": f"{cloud.proxy.host}:{cloud.proxy.port}",
            "SECRET_MANAGER_EMULATOR_HOST": cloud.secrets.target,
            "GOOGLE_CLOUD_PROJECT": "demo",
            "NSPS_DEPLOYMENT": "operator-a",
            "NSPS_FUNCTION": "ingress",
            "NSPS_DATABASE": "(default)",
            "NSPS_DIGEST_KEY": "env:NONE",
            "NSPS_EVENTS_TOPIC": TOPIC,
            "NSPS_ESPF_AUTH": json.dumps(auth),
            "THREADS": "20",
            **env,
        }

    def post(
        self, body: bytes = BODY, headers: dict[str, str] | None = None, path: str = "/"
    ) -> requests.Response:
        given = {"Authorization": basic(PASSWORD)} | (headers or {})
        return requests.post(self.url + path, data=body, headers=given, timeout=30)

    def raw(self, data: bytes, *, finish: bool = False) -> bytes:
        """Send bytes and return what comes back until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            answer = b""
            try:
                connection.sendall(data)
                if finish:
                    connection.shutdown(socket.SHUT_WR)
                while b"\r\n\r\n" not in answer and (piece := connection.recv(65536)):
                    answer += piece
            except (ConnectionResetError, BrokenPipeError):
                return answer
            return answer


AUTH = {"method": "basic", "credentials": ["sm://espf-webhook", "sm://espf-webhook-next"]}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    held = Cloud(tmp_path_factory.mktemp("cloud"))
    held.set_secret("espf-webhook", {"user": "espf", "password": PASSWORD})
    yield held
    held.close()


@pytest.fixture(scope="module")
def function(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with Function(tmp_path_factory.mktemp("function"), cloud, AUTH) as held:
        yield held


@pytest.fixture(autouse=True)
def _clean(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.proxy.pass_all()
    cloud.pull(1000, 0.1)


def test_an_accepted_webhook_is_in_the_queue_unchanged(function: Function, cloud: Cloud) -> None:
    headers = {"Content-Type": "text/plain", "x-request-id": "r-1"}
    answer = function.post(headers=headers, path="/any/path?x=1")
    (message,) = cloud.pull(1)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"event_id": message.attributes["event_id"]}
    assert message.data == BODY
    assert sorted(message.attributes) == ["event_id", "received_at", "request_id", "trace_id"]
    assert message.attributes["request_id"] == "r-1"


def test_fifty_times_the_same_webhook_is_one_event(function: Function, cloud: Cloud) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: function.post(), range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    idents = {answer.json()["event_id"] for answer in answers}
    messages = cloud.pull(50)
    assert len(messages) == 50
    assert {message.attributes["event_id"] for message in messages} == idents
    assert len(idents) == 1


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, b"", {}),
        (400, b"not json", {}),
        (400, b"[]", {}),
        (400, b'{"variables": {}}', {}),
        (400, b'{"event_type": 7}', {}),
        (400, b"[" * 60_000, {}),
        (400, b"\xff\xfe{", {}),
        (413, b"x" * 65_537, {}),
        (413, b"x" * 3_000_000, {}),
        (415, BODY, {"Content-Encoding": "gzip"}),
        (400, b'{"event_type": "\xe4"}', {"Content-Type": "application/json; charset=latin-1"}),
        (401, BODY, {"Authorization": basic(WRONG)}),
        (401, BODY, {"Authorization": ""}),
        (401, b"not json", {"Authorization": "Bearer x"}),
    ],
)
def test_what_can_never_work_is_refused(
    function: Function, cloud: Cloud, status: int, body: bytes, headers: dict[str, str]
) -> None:
    answer = function.post(body, headers)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert cloud.pull(1, 0.1) == []


def test_json_is_taken_whatever_the_content_type_says(function: Function) -> None:
    umlaut = '{"event_type": "SIM/Updated", "variables": {"n": "ä"}}'
    for body, kind in (
        (umlaut.encode(), "application/json; charset=us-ascii"),
        (umlaut.encode("utf-16"), "text/xml"),
        (b"\xef\xbb\xbf" + umlaut.encode(), "multipart/form-data; boundary=x"),
        (BODY, "application/x-www-form-urlencoded"),
        (b" " * (65_536 - len(BODY)) + BODY, "???"),
    ):
        assert function.post(body, {"Content-Type": kind}).status_code == 200, kind


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_other_methods_are_refused(function: Function, method: str) -> None:
    answer = requests.request(method, function.url, data=BODY, timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def head(*lines: str) -> bytes:
    auth = f"Authorization: {basic(PASSWORD)}"
    return "\r\n".join(["POST /a HTTP/1.1", "Host: x", auth, *lines, "", ""]).encode()


def test_chunked_bodies(function: Function, cloud: Cloud) -> None:
    chunked = head("Transfer-Encoding: chunked")
    one = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert function.raw(chunked + one).startswith(b"HTTP/1.1 200 ")
    assert len(cloud.pull(1)) == 1
    large = (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 5
    assert function.raw(chunked + large).startswith(b"HTTP/1.1 413 ")
    assert function.raw(chunked + b"5\r\nab", finish=True)[:13] in (b"HTTP/1.1 503 ", b"")
    assert not function.raw(chunked + b"zz\r\n\r\n", finish=True).startswith(b"HTTP/1.1 2")
    assert cloud.pull(1, 0.1) == []


def test_a_wrong_content_length_loses_nothing(function: Function, cloud: Cloud) -> None:
    more = head(f"Content-Length: {len(BODY) + 5}") + BODY
    assert function.raw(more, finish=True)[:13] in (b"HTTP/1.1 503 ", b"")
    for length in (str(len(BODY) - 5), "-1", "many", "99999999999999999999"):
        answer = function.raw(head(f"Content-Length: {length}") + BODY, finish=True)
        assert answer.startswith(b"HTTP/1.1 4") or answer == b"", answer
    assert function.raw(head("Content-Length: 100000")).startswith(b"HTTP/1.1 413 ")
    assert cloud.pull(1, 0.1) == []


def test_a_body_that_does_not_come_is_not_waited_for(function: Function) -> None:
    started = time.monotonic()
    answer = function.raw(head(f"Content-Length: {len(BODY)}") + BODY[:9])
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert 4 < time.monotonic() - started < 8


def test_pubsub_away_then_back(function: Function, cloud: Cloud) -> None:
    cloud.proxy.refuse()
    answer = function.post()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    cloud.proxy.pass_all()
    ends = time.monotonic() + 10
    while (answer := function.post()).status_code != 200 and time.monotonic() < ends:
        time.sleep(0.1)
    assert answer.status_code == 200
    assert len(cloud.pull(1)) >= 1


def test_pubsub_slow(function: Function, cloud: Cloud) -> None:
    assert function.post().status_code == 200
    cloud.proxy.hang()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(function.post)
        time.sleep(1)
        assert not waiting.done()
        cloud.proxy.pass_all()
        assert waiting.result().status_code == 200


def test_a_rotated_password_works_at_once_and_so_does_the_second(
    cloud: Cloud, tmp_path: Path
) -> None:
    cloud.set_secret("rotated", {"user": "espf", "password": PASSWORD})
    auth = {"method": "basic", "credentials": ["sm://rotated", "sm://rotated-next"]}
    with Function(tmp_path, cloud, auth) as function:
        assert function.post().status_code == 200
        cloud.set_secret("rotated-next", {"user": "espf", "password": NEXT_PASSWORD})
        renewed = {"Authorization": basic(NEXT_PASSWORD)}
        assert function.post(headers=renewed).status_code == 200
        assert function.post().status_code == 200
        assert function.post(headers={"Authorization": basic(WRONG)}).status_code == 401
    shown = function.log.read_text()
    assert not any(secret in shown for secret in (PASSWORD, NEXT_PASSWORD, WRONG))


def test_without_secrets_nothing_is_refused_for_good(cloud: Cloud, tmp_path: Path) -> None:
    auth = {"method": "basic", "credentials": ["sm://later"], "failure_status": 401}
    with Function(tmp_path, cloud, auth) as function:
        assert function.post().status_code == 503
        cloud.set_secret("later", {"user": "espf"})
        time.sleep(1.1)  # a failed read is not repeated within a second
        assert function.post().status_code == 503
    with Function(tmp_path, cloud, auth) as function:
        cloud.set_secret("later", {"user": "espf", "password": PASSWORD})
        assert function.post().status_code == 200


def test_a_wrong_environment_stops_the_process_and_is_named(cloud: Cloud, tmp_path: Path) -> None:
    function = Function(tmp_path, cloud, {"method": "basic", "credentials": []})
    function.start()
    assert function.process.wait(20) != 0
    assert "NSPS_ESPF_AUTH.credentials" in function.log.read_text()


def test_hostile_bytes(function: Function, cloud: Cloud) -> None:
    chance = random.Random(7)
    good = head(f"Content-Length: {len(BODY)}") + BODY
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randint(1, 12)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
        if chance.random() < 0.2:
            data = bytearray(chance.randbytes(chance.randint(1, 300)))
        answer = function.raw(bytes(data), finish=True)
        assert not answer.startswith(b"HTTP/1.1 500"), bytes(data)
    assert function.post().status_code == 200
    cloud.pull(1000, 0.2)


def test_the_log_is_json_and_shows_no_secret(function: Function) -> None:
    for header in (f"Basic {PASSWORD}", basic(WRONG), f"Plain {WRONG}", basic(PASSWORD)):
        function.post(headers={"Authorization": header})
    text = function.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert not any(secret in text for secret in (PASSWORD, WRONG, basic(PASSWORD)[6:]))
    accepted = [line for line in lines if line["message"] == "webhook accepted"]
    assert accepted[-1]["request_id"]
    assert "Traceback" not in text
