"""The embedded Pub/Sub as a process: what survives SIGKILL, and how it starts and stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth import jwt
from google.pubsub_v1.services.publisher import PublisherClient as GeneratedClient
from google.pubsub_v1.services.subscriber import SubscriberClient as GeneratedSubscriber
from google.pubsub_v1.types import PubsubMessage, StreamingPullRequest
from nsps_local.pubsub.server import PubSubServer
from nsps_testing.waiting import wait_for

from tests.local_cloud.pubsub_rig import Rig, endpoint

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately:DeprecationWarning")

READY = re.compile(r"pubsub ready on (\S+), control (\S+)\n")


def launch(state: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nsps_local.pubsub", "--state", str(state), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


Started = tuple[subprocess.Popen[str], Rig]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Started]]:
    processes: list[subprocess.Popen[str]] = []
    rigs: list[Rig] = []

    def begin() -> Started:
        process = launch(tmp_path / "state")
        processes.append(process)
        assert process.stdout
        ready = READY.fullmatch(process.stdout.readline())
        assert ready, process.communicate(timeout=5)
        rigs.append(Rig(ready[1], ready[2]))
        return process, rigs[-1]

    yield begin
    for rig in rigs:
        rig.close()
    for process in processes:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_no_confirmed_publish_is_lost_by_a_kill_in_the_middle(
    start: Callable[[], Started],
) -> None:
    process, rig = start()
    topic, subscription = rig.pair()
    confirmed: list[str] = []

    def publish() -> None:
        with suppress(exceptions.GoogleAPICallError, exceptions.RetryError):
            while True:
                messages = [PubsubMessage(data=os.urandom(200)) for _ in range(5)]
                answer = GeneratedClient.publish(
                    rig.publisher, topic=topic, messages=messages, timeout=1, retry=None
                )
                confirmed.extend(answer.message_ids)

    writers = [threading.Thread(target=publish) for _ in range(4)]
    for writer in writers:
        writer.start()
    wait_for(lambda: len(confirmed) > 1000)
    kill(process)
    for writer in writers:
        writer.join(20)
    assert len(confirmed) == len(set(confirmed))
    _, rig = start()
    assert rig.figures(subscription)["backlog"] >= len(confirmed)
    found: set[str] = set()
    while batch := rig.pull(subscription, 1000, 0.0):
        found |= {one.message.message_id for one in batch}
        rig.ack(subscription, *batch)
    assert found >= set(confirmed)


def test_a_kill_keeps_resources_attempts_acknowledgements_and_the_clock(
    start: Callable[[], Started],
) -> None:
    process, rig = start()
    dead, topic = rig.topic(labels={"a": "b"}), rig.topic()
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 5}
    retry = {"minimum_backoff": {"seconds": 100}, "maximum_backoff": {"seconds": 100}}
    subscription = rig.subscription(topic, dead_letter_policy=policy, retry_policy=retry)
    parked = rig.subscription(dead)
    for data in (b"acked", b"failing", b"outstanding"):
        rig.publish(topic, data)
    by_data: dict[bytes, Any] = {}
    while len(by_data) < 3:
        by_data |= {one.message.data: one for one in rig.pull(subscription)}
    rig.ack(subscription, by_data[b"acked"])
    rig.nack(subscription, by_data[b"failing"])
    rig.advance(3600)
    wait_for(lambda: rig.figures(subscription)["expired"] == 1)  # what was outstanding
    by_data = {one.message.data: one for one in rig.pull(subscription)}
    assert by_data[b"failing"].delivery_attempt == 2
    rig.nack(subscription, by_data[b"failing"])
    rig.ack(subscription, by_data[b"failing"] if b"acked" in by_data else by_data[b"outstanding"])
    rig.publisher.delete_topic(topic=topic)
    clock = rig.control("/metrics")["clock"]
    kill(process)

    _, rig = start()
    assert dict(rig.publisher.get_topic(topic=dead).labels) == {"a": "b"}
    found = rig.subscriber.get_subscription(subscription=subscription)
    assert found.topic == "_deleted-topic_"
    assert found.dead_letter_policy.max_delivery_attempts == 5
    assert rig.control("/metrics")["clock"] >= clock
    assert rig.figures(subscription)["backlog"] == 1
    assert not rig.pull(subscription, seconds=0.2)  # its back-off lasts
    for attempt in (3, 4, 5):
        rig.advance(100)
        (received,) = rig.pull(subscription)
        assert (received.message.data, received.delivery_attempt) == (b"failing", attempt)
        rig.nack(subscription, received)
    assert rig.pull_one(parked).message.data == b"failing"


def test_outstanding_messages_are_delivered_again_after_a_kill(
    start: Callable[[], Started],
) -> None:
    process, rig = start()
    topic, subscription = rig.pair()
    rig.publish(topic, b"x")
    old = rig.pull_one(subscription)
    kill(process)
    _, rig = start()
    rig.ack(subscription, old)  # of an earlier life: no error, no effect
    assert rig.pull_one(subscription).message.data == b"x"


def test_pushes_and_tokens_go_on_after_a_restart(start: Callable[[], Started]) -> None:
    with endpoint(lambda _: 200 if len(http.posts) > 1 else 503) as http:
        process, rig = start()
        account = {"service_account_email": "a@b.iam.gserviceaccount.com"}
        topic, _ = rig.pair(
            push_config={"push_endpoint": http.url, "oidc_token": account},
            retry_policy={"minimum_backoff": {"seconds": 1}},
        )
        rig.publish(topic)
        http.wait(1)
        process.terminate()
        assert process.wait(10) == 0
        _, rig = start()
        for post in http.wait(2):
            token = post.headers["authorization"].removeprefix("Bearer ")
            certs = rig.control("/certs")
            claims = jwt.decode(token, certs, audience=http.url)  # type: ignore[no-untyped-call]
            assert claims["email"] == "a@b.iam.gserviceaccount.com"


def test_a_clean_stop_says_nothing_and_leaves_one_file(
    start: Callable[[], Started], tmp_path: Path
) -> None:
    process, rig = start()
    topic, subscription = rig.pair()
    first = StreamingPullRequest(subscription=subscription, stream_ack_deadline_seconds=10)
    over = threading.Event()
    stream = GeneratedSubscriber.streaming_pull(
        rig.subscriber, requests=chain([first], (first for _ in iter(over.wait, True)))
    )
    rig.publish(topic)
    assert len(next(iter(stream)).received_messages) == 1
    waiting = threading.Thread(target=_pull_in_vain, args=(rig, rig.subscription(topic)))
    waiting.start()
    time.sleep(0.2)
    process.terminate()
    assert process.wait(10) == 0
    over.set()
    waiting.join(10)
    assert process.stderr
    assert process.stderr.read() == ""
    state = tmp_path / "state"
    assert {path.name for path in state.iterdir()} == {"pubsub.db", "oidc-key.pem", "lock"}
    assert stat.S_IMODE((state / "oidc-key.pem").stat().st_mode) == 0o600


def _pull_in_vain(rig: Rig, subscription: str) -> None:
    with suppress(exceptions.GoogleAPICallError, exceptions.RetryError):
        rig.subscriber.pull(subscription=subscription, max_messages=1, timeout=5, retry=None)


def refusal(state: Path, *arguments: str) -> str:
    process = launch(state, *arguments)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "Traceback" not in errors
    return errors


@pytest.mark.parametrize("option", ["--port", "--control-port"])
def test_a_port_in_use_is_one_sentence(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        errors = refusal(tmp_path, option, port)
    assert errors.count("\n") == 1
    assert port in errors


def test_a_directory_in_use_or_not_usable_is_one_sentence(tmp_path: Path) -> None:
    with PubSubServer(tmp_path / "used"):
        assert "in use by another" in refusal(tmp_path / "used")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pubsub.db").write_bytes(b"not a database" * 100)
    assert "cannot be read" in refusal(tmp_path / "broken")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "Cannot read the identities"),
        ("{", "does not name identities"),
        ('{"account": []}', "does not name identities"),
    ],
)
def test_identities_that_cannot_be_used(tmp_path: Path, content: str | None, text: str) -> None:
    file = tmp_path / "identities.json"
    if content is not None:
        file.write_text(content)
    errors = refusal(tmp_path / "state", "--identities", str(file))
    assert text in errors
    assert str(file) in errors


def test_two_servers_and_a_second_life_in_one_process(tmp_path: Path) -> None:
    one, two = PubSubServer(tmp_path / "one"), PubSubServer(tmp_path / "two")
    with one, two:
        rigs = [Rig(one.target, one.control_url), Rig(two.target, two.control_url)]
        topic, subscription = rigs[0].pair()
        with pytest.raises(exceptions.NotFound):
            rigs[1].publisher.get_topic(topic=topic)
        rigs[0].publish(topic, b"kept")
        for rig in rigs:
            rig.close()
    with one:
        rig = Rig(one.target)
        assert rig.pull_one(subscription).message.data == b"kept"
        rig.close()
