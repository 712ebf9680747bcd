"""One suite for the embedded Pub/Sub and, where it is installed, Google's emulator.

Google's is found by PUBSUB_EMULATOR_HOST_GOOGLE (a running one, host:port) or as the jar of the
package google-cloud-cli-pubsub-emulator. Where it is known to differ from production, the check is
expected to fail there, and the reason stands in KNOWN_DIFFERENCES.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.pubsub_v1.services.publisher import PublisherClient as GeneratedClient
from google.pubsub_v1.types import PubsubMessage
from nsps_local.pubsub.server import PubSubServer
from nsps_testing.waiting import wait_for

from tests.local_cloud.pubsub_rig import PROJECT, Rig, endpoint

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately:DeprecationWarning")

PACKAGE = "google-cloud-cli-pubsub-emulator"

KNOWN_DIFFERENCES = {
    "test_first_redelivery_waits_for_the_backoff": "the first redelivery ignores the back-off",
    "test_too_few_delivery_attempts_are_refused": "refused as OutOfRange",
    "test_push_with_dead_letters_tells_the_attempt": "no deliveryAttempt in the body",
    "test_push_carries_an_oidc_token": "no Authorization header",
    "test_filters_are_enforced": "stored, not enforced",
    "test_an_invalid_filter_is_refused": "accepted",
    "test_detach": "unimplemented",
    "test_messages_of_megabytes": "its answers can be larger than the client's channel takes",
    "test_text_that_is_no_utf8": "UNKNOWN, without a reason",
    "test_a_short_ack_deadline_is_refused": "5 s is accepted",
    "test_ordering_exactly_once_schemas_and_snapshots_are_refused": "it implements them",
    "test_pull_from_a_push_subscription_is_refused": "answered with no messages",
    "test_too_many_attributes_are_refused": "accepted",
    "test_plain_http_leads_to_loopback_alone": "accepted",
    "test_without_wrapper": "posts with the content type of a form",
    "test_topic_update_takes_only_the_masked_fields": "labels cannot be updated",
    "test_update_subscription": "labels cannot be updated",
    "test_seek_to_now_purges_and_to_the_past_replays": "what a seek acknowledged stays so",
}


@pytest.fixture(scope="module", params=["embedded", "google"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if request.param == "google":
        yield from _google()
        return
    with PubSubServer(tmp_path_factory.mktemp("pubsub")) as server:
        found = Rig(server.target, server.control_url)
        yield found
        found.close()


@pytest.fixture(autouse=True)
def known(request: pytest.FixtureRequest, rig: Rig) -> None:
    reason = KNOWN_DIFFERENCES.get(request.node.originalname)
    if reason and not rig.control_url:
        request.applymarker(pytest.mark.xfail(reason=f"Google's emulator: {reason}", strict=True))


def _google() -> Iterator[Rig]:
    running = os.environ.get("PUBSUB_EMULATOR_HOST_GOOGLE")
    if running:
        found = Rig(running)
        yield found
        found.close()
        return
    jar = _jar()
    if jar is None or shutil.which("java") is None:
        pytest.skip(f"Google's emulator is not here: package {PACKAGE} and Java are needed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["java", "-Xmx256m", "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _listens(port), 30, "Google's emulator to listen")
        found = Rig(f"127.0.0.1:{port}")
        yield found
        found.close()
    finally:
        process.kill()
        process.wait()


def _jar() -> Path | None:
    if shutil.which("dpkg") is None:
        return None
    listed = subprocess.run(
        ["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=False
    ).stdout
    return next((Path(line) for line in listed.splitlines() if line.endswith("-all.jar")), None)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- topics


def test_topics_live_and_die(rig: Rig) -> None:
    name = rig.topic(labels={"stack": "test"})
    assert dict(rig.publisher.get_topic(topic=name).labels) == {"stack": "test"}
    assert name in [t.name for t in rig.publisher.list_topics(project=f"projects/{PROJECT}")]
    with pytest.raises(exceptions.AlreadyExists):
        rig.publisher.create_topic(name=name)
    rig.publisher.delete_topic(topic=name)
    for gone in (rig.publisher.get_topic, rig.publisher.delete_topic):
        with pytest.raises(exceptions.NotFound):
            gone(topic=name)
    with pytest.raises(exceptions.NotFound):
        rig.publish(name)


@pytest.mark.parametrize("name", ["rp", "goog-topic", "1topic", "to pic", "t" * 256])
def test_bad_names_are_refused(rig: Rig, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        rig.publisher.create_topic(name=f"projects/{PROJECT}/topics/{name}")


def test_topic_update_takes_only_the_masked_fields(rig: Rig) -> None:
    name = rig.topic(labels={"old": "1"})
    rig.publisher.update_topic(
        request={
            "topic": {"name": name, "labels": {"new": "2"}},
            "update_mask": {"paths": ["labels"]},
        }
    )
    assert dict(rig.publisher.get_topic(topic=name).labels) == {"new": "2"}


def test_lists_come_in_pages(rig: Rig) -> None:
    topic = rig.topic()
    names = {rig.subscription(topic) for _ in range(5)}
    request = {"topic": topic, "page_size": 2}
    pages = list(rig.publisher.list_topic_subscriptions(request=request).pages)
    assert {name for page in pages for name in page.subscriptions} == names
    assert len(pages) == 3
    request = {"project": f"projects/{PROJECT}", "page_size": 3}
    assert names <= {s.name for s in rig.subscriber.list_subscriptions(request=request)}


def test_deleted_topic_leaves_its_subscriptions_and_their_messages(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.publish(topic, b"kept")
    rig.publisher.delete_topic(topic=topic)
    found = rig.subscriber.get_subscription(subscription=subscription)
    assert found.topic == "_deleted-topic_"
    assert rig.pull_one(subscription).message.data == b"kept"
    rig.publisher.create_topic(name=topic)
    rig.publish(topic, b"of a namesake")
    assert not rig.pull(subscription, seconds=0.2)


# -- subscriptions


def test_subscription_defaults(rig: Rig) -> None:
    topic, subscription = rig.pair()
    found = rig.subscriber.get_subscription(subscription=subscription)
    assert (found.topic, found.ack_deadline_seconds) == (topic, 10)
    assert found.message_retention_duration.total_seconds() == 7 * 86400
    assert not found.push_config.push_endpoint


def test_subscription_names_are_unique_and_topics_must_exist(rig: Rig) -> None:
    topic, subscription = rig.pair()
    with pytest.raises(exceptions.AlreadyExists):
        rig.subscriber.create_subscription(name=subscription, topic=topic)
    with pytest.raises(exceptions.NotFound):
        rig.subscription(topic + "-not-there")
    rig.subscriber.delete_subscription(subscription=subscription)
    for gone in (rig.subscriber.get_subscription, rig.subscriber.delete_subscription):
        with pytest.raises(exceptions.NotFound):
            gone(subscription=subscription)


@pytest.mark.parametrize(
    "settings",
    [
        {"ack_deadline_seconds": 601},
        {"message_retention_duration": {"seconds": 599}},
        {"message_retention_duration": {"seconds": 31 * 86400 + 1}},
        {"retry_policy": {"minimum_backoff": {"seconds": 601}}},
        {"push_config": {"push_endpoint": "nowhere"}},
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_refused(rig: Rig, settings: dict[str, Any]) -> None:
    topic = rig.topic()
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscription(topic, **settings)


def test_a_short_ack_deadline_is_refused(rig: Rig) -> None:
    topic = rig.topic()
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscription(topic, ack_deadline_seconds=9)


@pytest.mark.parametrize("attempts", [4, 101])
def test_too_few_delivery_attempts_are_refused(rig: Rig, attempts: int) -> None:
    topic = rig.topic()
    policy = {"dead_letter_topic": topic, "max_delivery_attempts": attempts}
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscription(topic, dead_letter_policy=policy)


def test_the_dead_letter_topic_must_exist(rig: Rig) -> None:
    topic = rig.topic()
    with pytest.raises(exceptions.NotFound):
        rig.subscription(topic, dead_letter_policy={"dead_letter_topic": topic + "-not-there"})


def test_retry_policy_has_defaults(rig: Rig) -> None:
    _, subscription = rig.pair(retry_policy={"minimum_backoff": {"seconds": 5}})
    policy = rig.subscriber.get_subscription(subscription=subscription).retry_policy
    assert policy.minimum_backoff.total_seconds() == 5
    assert policy.maximum_backoff.total_seconds() == 600


def test_update_subscription(rig: Rig) -> None:
    _, subscription = rig.pair(labels={"keep": "me"}, retry_policy={})

    def update(paths: list[str], **settings: Any) -> Any:
        return rig.subscriber.update_subscription(
            request={
                "subscription": {"name": subscription, **settings},
                "update_mask": {"paths": paths},
            }
        )

    changed = update(["ack_deadline_seconds"], ack_deadline_seconds=60, labels={"not": "masked"})
    assert (changed.ack_deadline_seconds, dict(changed.labels)) == (60, {"keep": "me"})
    assert "retry_policy" not in update(["retry_policy"])  # masked and absent: removed
    for paths in ([], ["nonsense"], ["filter"], ["name"], ["pushConfig"]):
        with pytest.raises(exceptions.InvalidArgument):
            update(paths, filter="attributes:a")
    assert rig.subscriber.get_subscription(subscription=subscription) == update(
        ["labels"], labels={"keep": "me"}
    )


def test_ordering_exactly_once_schemas_and_snapshots_are_refused(rig: Rig) -> None:
    topic, subscription = rig.pair()
    for settings in ({"enable_message_ordering": True}, {"enable_exactly_once_delivery": True}):
        with pytest.raises(exceptions.MethodNotImplemented, match="embedded Pub/Sub does not"):
            rig.subscription(topic, **settings)
    with pytest.raises(exceptions.MethodNotImplemented, match="CreateSnapshot"):
        rig.subscriber.create_snapshot(
            name=f"projects/{PROJECT}/snapshots/snap", subscription=subscription
        )


def test_detach(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.publish(topic)
    rig.publisher.detach_subscription(request={"subscription": subscription})
    assert rig.subscriber.get_subscription(subscription=subscription).detached
    with pytest.raises(exceptions.FailedPrecondition):
        rig.subscriber.pull(subscription=subscription, max_messages=1)


# -- publish and pull


def test_publish_pull_ack(rig: Rig) -> None:
    topic, subscription = rig.pair()
    published = rig.publish(topic, b"\x00data\xff", key="välue", other="2")
    received = rig.pull_one(subscription)
    message = received.message
    assert message.data == b"\x00data\xff"
    assert dict(message.attributes) == {"key": "välue", "other": "2"}
    assert message.message_id == published
    assert abs(message.publish_time.timestamp() - time.time()) < 5
    assert received.delivery_attempt == 0  # no dead letter policy, no counting
    assert not rig.pull(subscription, seconds=0.1)  # outstanding
    rig.ack(subscription, received)
    rig.ack(subscription, received)  # twice is no error
    assert not rig.pull(subscription, seconds=0.1)


def test_each_subscription_has_its_own_copy(rig: Rig) -> None:
    topic = rig.topic()
    subscriptions = [rig.subscription(topic) for _ in range(3)]
    published = rig.publish(topic)
    for subscription in subscriptions:
        received = rig.pull_one(subscription)
        assert received.message.message_id == published
        rig.ack(subscription, received)
    late = rig.subscription(topic)
    assert not rig.pull(late, seconds=0.1)


def test_a_batch_keeps_its_order_of_ids(rig: Rig) -> None:
    topic, subscription = rig.pair()
    messages = [PubsubMessage(data=b"%d" % n) for n in range(1000)]
    answer = GeneratedClient.publish(rig.publisher, topic=topic, messages=messages)
    ids = list(answer.message_ids)
    assert len(set(ids)) == 1000
    got: dict[str, bytes] = {}
    while len(got) < 1000:
        batch = rig.pull(subscription, 1000)
        assert batch
        got |= {one.message.message_id: one.message.data for one in batch}
        rig.ack(subscription, *batch)
    assert [got[one] for one in ids] == [m.data for m in messages]


def test_empty_messages_are_refused(rig: Rig) -> None:
    topic, subscription = rig.pair()
    empty = PubsubMessage()
    full = PubsubMessage(data=b"x")
    for messages in ([], [empty], [full, empty]):
        with pytest.raises(exceptions.InvalidArgument):
            GeneratedClient.publish(rig.publisher, topic=topic, messages=messages)
    rig.publish(topic, b"", only="an attribute")
    assert rig.pull_one(subscription).message.data == b""


def test_too_many_attributes_are_refused(rig: Rig) -> None:
    topic = rig.topic()
    for attributes in (
        {f"key{n}": "" for n in range(101)},
        {"k" * 257: ""},
        {"k": "v" * 1025},
        {"googkey": ""},
    ):
        message = PubsubMessage(data=b"x", attributes=attributes)
        with pytest.raises(exceptions.InvalidArgument):
            GeneratedClient.publish(rig.publisher, topic=topic, messages=[message])


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("Publisher/Publish", "unary_unary"),
        ("Subscriber/StreamingPull", "stream_stream"),
    ],
)
def test_text_that_is_no_utf8(rig: Rig, method: str, kind: str) -> None:
    """As a client of another language may send it; this one refuses it by itself."""
    client = rig.publisher if method.startswith("Publisher") else rig.subscriber
    call = getattr(client.transport.grpc_channel, kind)(f"/google.pubsub.v1.{method}")
    raw = b"\x0a\x02\xff\xfe"  # the first field of each: a name
    with pytest.raises(grpc.RpcError) as refused:
        list(call(iter([raw]) if kind == "stream_stream" else raw))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_of_megabytes(rig: Rig) -> None:
    topic, subscription = rig.pair()
    large = os.urandom(3_000_000)
    for _ in range(3):
        rig.publish(topic, large)
    seen = 0
    while seen < 3:  # the client's channel takes 4 MB: no answer may hold two of them
        for received in rig.pull(subscription, 10):
            assert received.message.data == large
            rig.ack(subscription, received)
            seen += 1


def test_bad_ack_ids_and_counts_are_refused(rig: Rig) -> None:
    _, subscription = rig.pair()
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscriber.acknowledge(subscription=subscription, ack_ids=["nonsense"])
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscriber.acknowledge(subscription=subscription, ack_ids=[])
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscriber.pull(subscription=subscription, max_messages=0)


def test_a_waiting_pull_is_woken_by_a_publish(rig: Rig) -> None:
    topic, subscription = rig.pair()
    timer = threading.Timer(0.3, rig.publish, (topic, b"late"))
    timer.start()
    answer = rig.subscriber.pull(subscription=subscription, max_messages=1, timeout=10)
    timer.join()
    assert answer.received_messages[0].message.data == b"late"


def test_overdue_messages_come_again(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.publish(topic)
    first = rig.pull_one(subscription)
    rig.nack(subscription, first, seconds=1)
    began = time.monotonic()
    again = rig.pull_one(subscription)
    assert 0.8 < time.monotonic() - began < 9
    assert again.message.message_id == first.message.message_id
    rig.ack(subscription, again)


def test_a_longer_deadline_keeps_it_outstanding(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.publish(topic)
    received = rig.pull_one(subscription)
    rig.nack(subscription, received, seconds=1)
    rig.nack(subscription, received, seconds=30)
    assert not rig.pull(subscription, seconds=1.3)
    rig.ack(subscription, received)


def test_nacked_messages_come_again_at_once_without_a_policy(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.publish(topic)
    for _ in range(3):
        rig.nack(subscription, rig.pull_one(subscription, 2))


def test_first_redelivery_waits_for_the_backoff(rig: Rig) -> None:
    policy = {"minimum_backoff": {"nanos": 300_000_000}, "maximum_backoff": {"nanos": 600_000_000}}
    topic, subscription = rig.pair(retry_policy=policy)
    rig.publish(topic)
    rig.nack(subscription, rig.pull_one(subscription))
    began = time.monotonic()
    for wait in (0.3, 0.9, 1.5):  # 0.3 s, doubled, and then the maximum
        rig.nack(subscription, rig.pull_one(subscription))
        assert wait - 0.05 < time.monotonic() - began < wait + 0.4


def test_dead_letters(rig: Rig) -> None:
    dead, topic = rig.topic(), rig.topic()
    parked = rig.subscription(dead)
    subscription = rig.subscription(
        topic, dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5}
    )
    published = rig.publish(topic, b"poison", key="value")
    attempts = []
    for _ in range(5):
        received = rig.pull_one(subscription)
        attempts.append(received.delivery_attempt)
        stamp = received.message.publish_time
        rig.nack(subscription, received)
    assert attempts == [1, 2, 3, 4, 5]
    assert not rig.pull(subscription, seconds=0.2)  # (Google's forwards only when asked again)
    buried = rig.pull_one(parked).message
    attributes = dict(buried.attributes)
    when = attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    assert attributes == {
        "key": "value",
        "CloudPubSubDeadLetterSourceSubscription": subscription.rpartition("/")[2],
        "CloudPubSubDeadLetterSourceSubscriptionProject": PROJECT,
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
    }
    assert when.startswith(stamp.strftime("%Y-%m-%dT%H:%M:%S"))
    assert buried.data == b"poison"
    assert buried.message_id != published


FILTERS = [
    ("attributes:hss", {"hss": "1"}, {"crm": "1"}),
    ('attributes.type = "sim"', {"type": "sim"}, {"type": "SIM"}),
    ('attributes.type != "sim"', {"type": "x"}, {"type": "sim"}),
    ('hasPrefix(attributes.type, "SIM/")', {"type": "SIM/Updated"}, {"type": "sim/"}),
    ('NOT attributes:a AND (attributes:b OR attributes."c/d" = "e")', {"c/d": "e"}, {"a": ""}),
]


@pytest.mark.parametrize(("text", "wanted", "unwanted"), FILTERS, ids=[f[0] for f in FILTERS])
def test_filters_are_enforced(
    rig: Rig, text: str, wanted: dict[str, str], unwanted: dict[str, str]
) -> None:
    topic, subscription = rig.pair(filter=text)
    rig.publish(topic, b"unwanted", **unwanted)
    rig.publish(topic, b"wanted", **wanted)
    assert [one.message.data for one in rig.pull(subscription)] == [b"wanted"]
    assert not rig.pull(subscription, seconds=0.1)


@pytest.mark.parametrize("text", ["nonsense", "attributes.a = b", "a" * 257])
def test_an_invalid_filter_is_refused(rig: Rig, text: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        rig.subscription(rig.topic(), filter=text)


# -- streaming pull


def test_the_real_subscriber_receives_everything(rig: Rig) -> None:
    topic, subscription = rig.pair()
    published = {rig.publish(topic, b"%d" % n) for n in range(100)}
    got: list[str] = []

    def callback(message: Any) -> None:
        got.append(message.message_id)
        message.ack()

    future = rig.subscriber.subscribe(subscription, callback)
    try:
        wait_for(lambda: set(got) >= published, 10)
        published.add(rig.publish(topic, b"while it streams"))
        wait_for(lambda: set(got) >= published, 10)
    finally:
        future.cancel()
        future.result(timeout=10)
    assert not rig.pull(subscription, seconds=0.3)


def test_a_streamed_nack_comes_again(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.publish(topic)
    seen: list[Any] = []

    def callback(message: Any) -> None:
        seen.append(message)
        if len(seen) < 3:
            message.nack()
        else:
            message.ack()

    future = rig.subscriber.subscribe(subscription, callback)
    try:
        wait_for(lambda: len(seen) == 3, 10)
    finally:
        future.cancel()
        future.result(timeout=10)


def test_streaming_from_nowhere_fails(rig: Rig) -> None:
    future = rig.subscriber.subscribe(rig.unused_subscription(), lambda _: None)
    with pytest.raises(exceptions.NotFound):
        future.result(timeout=10)


# -- push


def test_push_wraps_the_message(rig: Rig) -> None:
    with endpoint() as http:
        topic, subscription = rig.pair(push_config={"push_endpoint": http.url + "?a=b"})
        published = rig.publish(topic, b"pushed", key="value")
        (post,) = http.wait(1)
        assert post.path == "/push?a=b"
        assert post.headers["content-type"] == "application/json"
        body = post.json
        assert body["subscription"] == subscription
        message = body["message"]
        assert base64.b64decode(message["data"]) == b"pushed"
        assert message["attributes"] == {"key": "value"}
        assert message["messageId"] == message["message_id"] == published
        assert message["publishTime"] == message["publish_time"]
        assert message["publishTime"].endswith("Z")
        assert "deliveryAttempt" not in body
        time.sleep(0.2)
        assert len(http.posts) == 1


def test_push_again_after_an_error(rig: Rig) -> None:
    policy = {"minimum_backoff": {"seconds": 1}, "maximum_backoff": {"seconds": 1}}
    with endpoint(lambda _: 500 if len(http.posts) == 1 else 204) as http:
        topic, _ = rig.pair(push_config={"push_endpoint": http.url}, retry_policy=policy)
        rig.publish(topic)
        first, second = http.wait(2)
        assert 0.8 < second.at - first.at < 3
        assert first.json["message"]["messageId"] == second.json["message"]["messageId"]


def test_push_with_dead_letters_tells_the_attempt(rig: Rig) -> None:
    dead = rig.topic()
    parked = rig.subscription(dead)
    with endpoint(lambda _: 503) as http:
        topic, _ = rig.pair(
            push_config={"push_endpoint": http.url},
            dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5},
            retry_policy={"minimum_backoff": {}, "maximum_backoff": {}},
        )
        rig.publish(topic, b"poison")
        assert http.wait(1)[0].json.get("deliveryAttempt") == 1
        posts = http.wait(5)
        assert rig.pull_one(parked).message.data == b"poison"
        assert [post.json.get("deliveryAttempt") for post in posts] == [1, 2, 3, 4, 5]


def test_push_carries_an_oidc_token(rig: Rig) -> None:
    account = {"service_account_email": "push@conformance.iam.gserviceaccount.com"}
    with endpoint() as http:
        push = {"push_endpoint": http.url, "oidc_token": account}
        topic, _ = rig.pair(push_config=push)
        rig.publish(topic)
        assert http.wait(1)[0].headers.get("authorization", "").startswith("Bearer ")


@pytest.mark.parametrize(
    "url",
    ["https://handler.example/", "http://localhost:9/a", "http://127.8.9.1:9", "http://[::1]/"],
)
def test_push_endpoints(rig: Rig, url: str) -> None:
    rig.pair(push_config={"push_endpoint": url})


@pytest.mark.parametrize(
    "url",
    [
        "http://handler.example/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://127.0.0.1.example/",
        "http://localhost.example/",
    ],
)
def test_plain_http_leads_to_loopback_alone(rig: Rig, url: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="https"):
        rig.pair(push_config={"push_endpoint": url})
    _, subscription = rig.pair()
    with pytest.raises(exceptions.InvalidArgument, match="https"):
        rig.subscriber.modify_push_config(
            request={"subscription": subscription, "push_config": {"push_endpoint": url}}
        )


def test_without_wrapper(rig: Rig) -> None:
    with endpoint() as http:
        push = {"push_endpoint": http.url, "no_wrapper": {"write_metadata": True}}
        topic, subscription = rig.pair(push_config=push)
        published = rig.publish(topic, b"bare \x00 bytes", key="value")
        (post,) = http.wait(1)
        assert post.body == b"bare \x00 bytes"
        assert post.headers["key"] == "value"
        assert post.headers["x-goog-pubsub-message-id"] == published
        assert post.headers["x-goog-pubsub-subscription-name"] == subscription
        assert post.headers["x-goog-pubsub-publish-time"].endswith("Z")
        assert "content-type" not in post.headers


def test_taking_the_endpoint_off_and_putting_it_back(rig: Rig) -> None:
    with endpoint() as http:
        topic, subscription = rig.pair(push_config={"push_endpoint": http.url})
        rig.subscriber.modify_push_config(subscription=subscription, push_config={})
        rig.publish(topic, b"held")
        time.sleep(0.3)
        assert not http.posts
        push = {"push_endpoint": http.url}
        rig.subscriber.modify_push_config(subscription=subscription, push_config=push)
        assert base64.b64decode(http.wait(1)[0].json["message"]["data"]) == b"held"


def test_pull_from_a_push_subscription_is_refused(rig: Rig) -> None:
    _, subscription = rig.pair(push_config={"push_endpoint": "http://127.0.0.1:9/none"})
    with pytest.raises(exceptions.FailedPrecondition):
        rig.subscriber.pull(subscription=subscription, max_messages=1, timeout=1)


# -- seek


def test_seek_to_now_purges_and_to_the_past_replays(rig: Rig) -> None:
    topic, subscription = rig.pair(retain_acked_messages=True)
    before = time.time() - 60
    for n in range(3):
        rig.publish(topic, b"%d" % n)
    acked = rig.pull(subscription, 1)
    rig.ack(subscription, *acked)
    rig.subscriber.seek(request={"subscription": subscription, "time": _stamp(time.time() + 60)})
    assert not rig.pull(subscription, seconds=0.2)
    rig.subscriber.seek(request={"subscription": subscription, "time": _stamp(before)})
    data: set[bytes] = set()
    while batch := rig.pull(subscription, seconds=0.5):
        data |= {one.message.data for one in batch}
        rig.ack(subscription, *batch)
    assert data == {b"0", b"1", b"2"}


def _stamp(seconds: float) -> dict[str, int]:
    return {"seconds": int(seconds), "nanos": int(seconds % 1 * 1e9)}


def test_a_client_that_gave_up_takes_nothing_with_it(rig: Rig) -> None:
    topic, subscription = rig.pair()
    with suppress(exceptions.DeadlineExceeded, exceptions.RetryError):
        rig.subscriber.pull(
            subscription=subscription, max_messages=1, timeout=0.05, retry=Retry(timeout=0.05)
        )
    rig.publish(topic)
    assert rig.pull_one(subscription, 2)
