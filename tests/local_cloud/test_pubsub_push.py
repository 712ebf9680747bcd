"""Push: tokens, answers, back-off on a moved clock, flow control, faults, figures."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth import jwt
from google.auth.transport.requests import Request
from google.oauth2 import id_token
from google.pubsub_v1.services.publisher import PublisherClient as GeneratedClient
from google.pubsub_v1.types import PubsubMessage
from nsps_local.pubsub.identities import Identities
from nsps_local.pubsub.push import PushBackoff, Window
from nsps_local.pubsub.server import PubSubServer
from nsps_testing.sockets import SocketServer
from nsps_testing.waiting import wait_for

from tests.local_cloud.pubsub_rig import Post, Rig, endpoint

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately:DeprecationWarning")

QUICK: dict[str, Any] = {"minimum_backoff": {}, "maximum_backoff": {}}
SLOW = {"minimum_backoff": {"seconds": 10}, "maximum_backoff": {"seconds": 600}}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with PubSubServer(tmp_path_factory.mktemp("pubsub")) as server:
        found = Rig(server.target, server.control_url)
        yield found
        found.close()


@pytest.fixture(autouse=True)
def no_faults_left(rig: Rig) -> Iterator[None]:
    yield
    rig.faults("*")


def pushed(rig: Rig, url: str, **settings: Any) -> tuple[str, str]:
    settings.setdefault("retry_policy", QUICK)
    push = {"push_endpoint": url, **settings.pop("push", {})}
    return rig.pair(push_config=push, **settings)


def has_nacked(rig: Rig, subscription: str, times: int) -> bool:
    return bool(rig.figures(subscription)["nacked"] == times)


def data_of(post: Post) -> bytes:
    return base64.b64decode(post.json["message"]["data"])


# -- tokens


def decode(token: str, certs: Any, audience: str) -> Any:
    return jwt.decode(token, certs=certs, audience=audience)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("audience", ["", "https://hss.example/"])
def test_tokens_verify_with_the_real_library(rig: Rig, audience: str) -> None:
    account = {"service_account_email": "hss@demo.iam.gserviceaccount.com", "audience": audience}
    with endpoint() as http:
        pushed(rig, http.url, push={"oidc_token": account})
        topic, _ = pushed(rig, http.url, push={"oidc_token": account})
        rig.publish(topic)
        token = http.wait(1)[0].headers["authorization"].removeprefix("Bearer ")
        wanted = audience or http.url
        claims = decode(token, certs=rig.control("/certs"), audience=wanted)
        assert claims["iss"] == "https://accounts.google.com"
        assert claims["email"] == account["service_account_email"]
        assert claims["email_verified"] is True
        assert claims["exp"] - claims["iat"] == 3600
        url = rig.control_url + "/certs"
        assert id_token.verify_token(token, Request(), wanted, certs_url=url) == claims
        with pytest.raises(ValueError, match="audience"):
            decode(token, certs=rig.control("/certs"), audience="https://other.example/")
        head, body, signature = token.split(".")
        forged = f"{head}.{body}.{signature[8:]}{signature[:8]}"
        with pytest.raises(ValueError, match="signature"):
            decode(forged, certs=rig.control("/certs"), audience=wanted)


def test_an_account_is_needed_for_tokens(rig: Rig) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="service_account_email"):
        pushed(rig, "http://127.0.0.1:9/", push={"oidc_token": {"audience": "x"}})


# -- accounts

MINE = "push@demo.iam.gserviceaccount.com"
OTHER = "other@demo.iam.gserviceaccount.com"


@contextmanager
def rig_with(state: Path, invokers: dict[str, list[str]]) -> Iterator[Rig]:
    """The real clients on a server that knows two accounts and these grants."""
    known = Identities.model_validate({"accounts": [MINE, OTHER], "invokers": invokers})
    with PubSubServer(state, identities=known) as server:
        rig = Rig(server.target, server.control_url)
        yield rig
        rig.close()


def test_the_account_of_a_push_must_exist(tmp_path: Path) -> None:
    url = "https://hss.example/"
    nobody = {"oidc_token": {"service_account_email": "gone@demo.iam.gserviceaccount.com"}}
    with rig_with(tmp_path, {}) as rig:
        with pytest.raises(exceptions.NotFound, match="gone@demo"):
            pushed(rig, url, push=nobody)
        _, subscription = pushed(rig, url, push={"oidc_token": {"service_account_email": MINE}})
        changed = {"push_endpoint": url, **nobody}
        with pytest.raises(exceptions.NotFound, match="gone@demo"):
            rig.subscriber.modify_push_config(
                request={"subscription": subscription, "push_config": changed}
            )
        with pytest.raises(exceptions.NotFound, match="gone@demo"):
            rig.subscriber.update_subscription(
                request={
                    "subscription": {"name": subscription, "push_config": changed},
                    "update_mask": {"paths": ["push_config"]},
                }
            )
        kept = rig.subscriber.get_subscription(subscription=subscription)
        assert kept.push_config.oidc_token.service_account_email == MINE


def test_a_push_is_answered_403_until_its_account_may_call(tmp_path: Path) -> None:
    token = {"oidc_token": {"service_account_email": MINE}}
    with endpoint() as http:
        with rig_with(tmp_path, {http.url: [f"serviceAccount:{OTHER}"]}) as rig:
            topic, subscription = pushed(rig, f"{http.url}/work", push=token)
            published = rig.publish(topic)
            wait_for(lambda: rig.figures(subscription).get("push_403", 0) >= 2)
            figures = rig.figures(subscription)
            assert (figures["acked"], figures["backlog"]) == (0, 1)
            assert figures["nacked"] == figures["push_403"]
        assert http.posts == []
        with rig_with(tmp_path, {http.url: [f"serviceAccount:{MINE}"]}) as rig:
            assert http.wait(1)[0].json["message"]["messageId"] == published
            wait_for(lambda: rig.figures(subscription)["backlog"] == 0)


@pytest.mark.parametrize(
    ("members", "push", "reached"),
    [
        ([], {}, False),
        (["allUsers"], {}, True),
        ([f"serviceAccount:{MINE}"], {}, False),
        (None, {}, True),
        ([MINE], {"oidc_token": {"service_account_email": MINE}}, False),
    ],
    ids=["nobody", "everybody", "no token", "no function", "no member"],
)
def test_who_is_admitted(
    tmp_path: Path, members: list[str] | None, push: dict[str, Any], reached: bool
) -> None:
    with endpoint() as http:
        invokers = {"https://other.example": [], **({} if members is None else {http.url: members})}
        with rig_with(tmp_path, invokers) as rig:
            topic, subscription = pushed(rig, http.url, push=push)
            rig.publish(topic)
            counted = "acked" if reached else "push_403"
            wait_for(lambda: rig.figures(subscription).get(counted))
        assert bool(http.posts) is reached


# -- answers


@pytest.mark.parametrize("status", [102, 200, 201, 202, 204])
def test_these_answers_acknowledge(rig: Rig, status: int) -> None:
    with endpoint(lambda _: status) as http:
        topic, subscription = pushed(rig, http.url)
        rig.publish(topic)
        http.wait(1)
        wait_for(lambda: rig.figures(subscription)["acked"] == 1)
        assert rig.figures(subscription)["backlog"] == 0


@pytest.mark.parametrize("status", [203, 301, 400, 404, 409, 429, 500, 503])
def test_these_do_not(rig: Rig, status: int) -> None:
    with endpoint(lambda _: status) as http:
        topic, subscription = pushed(rig, http.url, retry_policy=SLOW)
        rig.publish(topic)
        http.wait(1)
        wait_for(lambda: rig.figures(subscription)["nacked"] == 1)
        figures = rig.figures(subscription)
        assert (figures["backlog"], figures["waiting"], figures[f"push_{status}"]) == (1, 1, 1)


def test_a_refused_or_broken_connection_is_a_nack(rig: Rig) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        topic, subscription = pushed(rig, f"http://127.0.0.1:{port}/", retry_policy=SLOW)
        rig.publish(topic)
        wait_for(partial(has_nacked, rig, subscription, 1))
        assert rig.figures(subscription)["push_broken"] == 1

    def break_it(_: Post) -> int:
        raise ConnectionError

    with endpoint(break_it) as http:
        topic, subscription = pushed(rig, http.url, retry_policy=SLOW)
        rig.publish(topic)
        wait_for(lambda: rig.figures(subscription)["nacked"] == 1)
        assert len(http.posts) == 1


def test_an_endpoint_slower_than_the_ack_deadline_is_cut_off(rig: Rig) -> None:
    release = threading.Event()

    def hang(_: Post) -> int:
        release.wait(10)
        return 200

    with endpoint(hang) as http:
        topic, subscription = pushed(rig, http.url, retry_policy=SLOW, ack_deadline_seconds=10)
        rig.publish(topic)
        http.wait(1)
        rig.advance(9)
        assert rig.figures(subscription)["outstanding"] == 1
        rig.advance(1.1)
        figures = rig.figures(subscription)
        assert (figures["expired"], figures["waiting"], figures["in_flight"]) == (1, 1, 0)
        release.set()
        rig.advance(10)
        http.wait(2)
        wait_for(lambda: rig.figures(subscription)["acked"] == 1)


def test_connections_are_kept(rig: Rig) -> None:
    with endpoint() as http:
        topic, _ = pushed(rig, http.url)
        for number in range(20):
            rig.publish(topic)
            http.wait(number + 1)
        assert http.connections <= 2


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "acked"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "acked",
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "acked",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "nacked"),
    ],
)
def test_answers_of_other_shapes_and_nonsense(rig: Rig, answer: bytes, counted: str) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in answer:  # also in the smallest pieces
            connection.sendall(bytes([byte]))

    with SocketServer(serve) as server:
        url = f"http://127.0.0.1:{server.port}/"
        topic, subscription = pushed(rig, url, retry_policy=SLOW)
        rig.publish(topic)
        wait_for(lambda: rig.figures(subscription)[counted] == 1)


# -- back-off and dead letters, on the moved clock


def test_a_hundred_attempts_take_sixteen_hours_and_end_in_the_dead_letter_topic(rig: Rig) -> None:
    dead = rig.topic()
    parked = rig.subscription(dead)
    with endpoint(lambda _: 503) as http:
        topic, subscription = pushed(
            rig,
            http.url,
            retry_policy=SLOW,
            dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 100},
        )
        rig.publish(topic, b"poison")
        passed = 0.0
        for attempt in range(1, 100):
            wait_for(partial(has_nacked, rig, subscription, attempt))
            due = min(10 * 2 ** (attempt - 1), 600)
            rig.advance(due - 1)
            assert len(http.posts) == attempt
            rig.advance(1)
            http.wait(attempt + 1)
            passed += due
        assert passed / 3600 == pytest.approx(15.7, abs=0.1)
        (buried,) = rig.pull(parked)
        assert buried.message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "100"
        assert [post.json["deliveryAttempt"] for post in http.posts] == list(range(1, 101))
        figures = rig.figures(subscription)
        assert (figures["backlog"], figures["dead_lettered"]) == (0, 1)


def test_without_a_dead_letter_topic_the_message_stays(rig: Rig) -> None:
    dead = rig.topic()
    with endpoint(lambda _: 503 if len(http.posts) < 8 else 200) as http:
        topic, subscription = pushed(
            rig,
            "http://127.0.0.1:9/",
            dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5},
        )
        rig.publisher.delete_topic(topic=dead)
        push = {"push_endpoint": http.url}
        rig.subscriber.modify_push_config(subscription=subscription, push_config=push)
        rig.publish(topic)
        http.wait(8)
        wait_for(lambda: rig.figures(subscription)["acked"] == 1)


def test_a_pause_keeps_messages_and_counts_no_attempts(rig: Rig) -> None:
    dead = rig.topic()
    with endpoint(lambda _: 503 if len(http.posts) == 1 else 200) as http:
        push = {"push_endpoint": http.url}
        topic, subscription = pushed(
            rig,
            http.url,
            retry_policy=SLOW,
            dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5},
        )
        rig.publish(topic)
        wait_for(lambda: rig.figures(subscription)["nacked"] == 1)
        rig.subscriber.modify_push_config(subscription=subscription, push_config={})
        rig.advance(3 * 86400)
        assert rig.figures(subscription)["backlog"] == 1
        assert len(http.posts) == 1
        rig.subscriber.modify_push_config(subscription=subscription, push_config=push)
        assert http.wait(2)[1].json["deliveryAttempt"] == 2


def test_messages_do_not_outlive_their_retention(rig: Rig) -> None:
    topic, subscription = rig.pair(message_retention_duration={"seconds": 600})
    rig.publish(topic, b"old")
    rig.advance(500)
    rig.publish(topic, b"new")
    figures = rig.figures(subscription)
    assert figures["backlog"] == 2
    assert figures["oldest_unacked_seconds"] == pytest.approx(500, abs=5)
    rig.advance(150)
    assert [one.message.data for one in rig.pull(subscription)] == [b"new"]
    assert rig.figures(subscription)["dropped"] == 1


def test_idle_subscriptions_expire_unless_they_never_do(rig: Rig) -> None:
    topic, idle = rig.pair()
    never = rig.subscription(topic, expiration_policy={})
    used = rig.subscription(topic)
    for _ in range(32):
        rig.advance(86400)
        rig.subscriber.get_subscription(subscription=used)
    with pytest.raises(exceptions.NotFound):
        rig.subscriber.get_subscription(subscription=idle)
    assert rig.subscriber.get_subscription(subscription=never).name == never


def test_timers_follow_the_moved_clock(rig: Rig) -> None:
    with endpoint(lambda _: 503) as http:
        topic, subscription = pushed(rig, http.url, retry_policy=SLOW)
        rig.publish(topic)
        wait_for(partial(has_nacked, rig, subscription, 1))
        rig.advance(9.8)
        http.wait(2, seconds=2)


def test_without_a_policy_nacks_pause_the_subscription(rig: Rig) -> None:
    with endpoint(lambda _: 503 if len(http.posts) <= 3 else 200) as http:
        push = {"push_endpoint": http.url}
        topic, subscription = rig.pair(push_config=push)
        rig.publish(topic)
        first, second, third, fourth = (post.at for post in http.wait(4))
        gaps = (second - first, third - second, fourth - third)
        for gap, pause in zip(gaps, (0.1, 0.2, 0.4), strict=True):
            assert pause - 0.02 < gap < pause + 0.3
        wait_for(lambda: rig.figures(subscription)["acked"] == 1)


def test_push_backoff_without_a_policy() -> None:
    backoff, now, pauses = PushBackoff(), 1000.0, []
    for _ in range(12):
        backoff.failed(now)
        backoff.failed(now)  # the others that were under way do not count again
        pauses.append(backoff.until - now)
        now = backoff.until
    assert pauses[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert pauses[-1] == pytest.approx(60)
    backoff.succeeded()
    assert backoff.until == 0


# -- flow control


def test_the_window_grows_with_successes_and_never_shrinks_below_its_start() -> None:
    window = Window(largest=128, start=4)
    for _ in range(500):
        window.succeeded()
    assert window.room(100) == 28
    window.failed()
    assert window.room(0) < 128
    for _ in range(50):
        window.failed()
    assert window.room(0) == 4
    assert Window(largest=2, start=8).room(0) == 2


def test_one_call_that_hangs_holds_up_no_other_even_after_many_failures(rig: Rig) -> None:
    release = threading.Event()

    def answer(post: Post) -> int:
        if data_of(post) == b"hangs":
            release.wait(30)
        return 503 if len(http.posts) <= 50 else 200

    with endpoint(answer) as http:
        topic, subscription = pushed(rig, http.url, retry_policy=SLOW)
        for _ in range(50):
            rig.publish(topic)
        wait_for(partial(has_nacked, rig, subscription, 50))
        rig.publish(topic, b"hangs")
        http.wait(51)
        for _ in range(20):
            rig.publish(topic)
        http.wait(71, seconds=5)
        release.set()


def test_it_says_why_messages_wait(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def hang(_: Post) -> int:
        release.wait(30)
        return 200

    with endpoint(hang) as http:
        topic, _ = pushed(rig, http.url)
        for _ in range(20):
            rig.publish(topic)
        wait_for(lambda: "12 messages wait, for 8 pushes are under way" in caplog.text)
        release.set()
        http.wait(20)


def test_pushes_run_side_by_side(rig: Rig) -> None:
    def slow(_: Post) -> int:
        time.sleep(0.1)
        return 200

    with endpoint(slow) as http:
        topic, subscription = pushed(rig, "http://127.0.0.1:9/")
        rig.subscriber.modify_push_config(subscription=subscription, push_config={})
        messages = [PubsubMessage(data=b"x") for _ in range(300)]
        GeneratedClient.publish(rig.publisher, topic=topic, messages=messages)
        push = {"push_endpoint": http.url}
        began = time.monotonic()
        rig.subscriber.modify_push_config(subscription=subscription, push_config=push)
        http.wait(300)
        assert time.monotonic() - began < 5  # one by one: 30 s
        assert 32 <= http.peak <= 128


def test_a_hanging_endpoint_holds_up_nobody_else(rig: Rig) -> None:
    release = threading.Event()

    def hang(_: Post) -> int:
        release.wait(20)
        return 200

    with endpoint(hang) as stuck, endpoint() as well:
        topic, _ = pushed(rig, stuck.url)
        rig.subscription(topic, push_config={"push_endpoint": well.url})
        began = time.monotonic()
        for _ in range(200):
            rig.publish(topic)
        well.wait(200)
        assert time.monotonic() - began < 10
        release.set()


# -- faults


def test_publish_unavailable_is_retried_by_the_client(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.faults(topic, publish_unavailable={"times": 2})
    rig.publish(topic)
    assert len(rig.pull(subscription)) == 1
    assert not rig.pull(subscription, seconds=0.2)
    assert rig.control("/metrics")["topics"][topic]["published"] == 1


def test_a_lost_answer_means_the_message_comes_twice(rig: Rig) -> None:
    topic, subscription = rig.pair()
    rig.faults(topic, publish_answer_lost={"times": 1})
    known = rig.publish(topic, b"twice")
    received = rig.pull(subscription)
    assert [one.message.data for one in received] == [b"twice", b"twice"]
    assert len({one.message.message_id for one in received} - {known}) == 1


def test_duplicates_at_once_and_after_the_acknowledgement(rig: Rig) -> None:
    with endpoint() as http:
        topic, subscription = pushed(rig, http.url)
        rig.faults(subscription, duplicate={"times": 1})
        rig.publish(topic)
        first, second = http.wait(2)
        assert first.body == second.body
        wait_for(lambda: rig.figures(subscription)["acked"] == 1)
        rig.faults(subscription, lose_acks={"times": 2})
        rig.publish(topic)
        http.wait(5)
        wait_for(lambda: rig.figures(subscription)["acked"] == 2)
        assert len({post.json["message"]["messageId"] for post in http.posts[2:]}) == 1


def test_acknowledgements_after_the_deadline_count_or_are_lost(rig: Rig) -> None:
    topic, subscription = rig.pair(ack_deadline_seconds=10)
    rig.publish(topic, b"late")
    late = rig.pull_one(subscription)
    rig.advance(11)
    rig.ack(subscription, late)
    assert not rig.pull(subscription, seconds=0.5)
    assert rig.figures(subscription)["acked"] == 1

    rig.faults(subscription, lose_late_acks=1.0)
    rig.publish(topic, b"lost")
    late = rig.pull_one(subscription)
    rig.advance(11)
    rig.ack(subscription, late)
    again = rig.pull_one(subscription)
    assert again.message.message_id == late.message.message_id
    rig.ack(subscription, late)
    figures = rig.figures(subscription)
    assert (figures["acked"], figures["late_acks_lost"], figures["expired"]) == (1, 2, 2)
    rig.ack(subscription, again)
    assert rig.figures(subscription)["acked"] == 2
    assert rig.figures(subscription)["backlog"] == 0


def test_connections_that_drop_before_and_after_the_endpoint_heard(rig: Rig) -> None:
    with endpoint() as http:
        topic, subscription = pushed(rig, http.url, retry_policy=SLOW)
        rig.faults(subscription, push_drop_before={"times": 1})
        rig.publish(topic)
        wait_for(lambda: rig.figures(subscription)["nacked"] == 1)
        assert not http.posts
        rig.faults(subscription, push_drop_after={"times": 1})
        rig.advance(10)
        http.wait(1)
        wait_for(lambda: rig.figures(subscription)["nacked"] == 2)
        rig.advance(20)
        http.wait(2)
        wait_for(lambda: rig.figures(subscription)["acked"] == 1)


def test_reorder_and_delay(rig: Rig) -> None:
    with endpoint() as http:
        topic, subscription = pushed(rig, http.url)
        rig.faults(subscription, reorder={"times": 1, "seconds": 0.3})
        rig.publish(topic, b"first")
        rig.publish(topic, b"second")
        assert [data_of(post) for post in http.wait(2)] == [b"second", b"first"]
        rig.faults(subscription, delay=3600)
        rig.publish(topic, b"late")
        rig.advance(3590)
        time.sleep(0.1)
        assert len(http.posts) == 2
        rig.advance(10)
        assert data_of(http.wait(3)[2]) == b"late"


def test_faults_can_be_seen_and_switched_off(rig: Rig) -> None:
    _, subscription = rig.pair()
    rig.faults(subscription, duplicate=0.25)
    shown = rig.control("/faults")[subscription]["duplicate"]
    assert (shown["probability"], shown["times"]) == (0.25, None)
    rig.faults(subscription)
    assert rig.control("/faults") == {}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/clock", {"advance": -1}),
        ("/clock", {"advance": "1"}),
        ("/clock", {"forward": 1}),
        ("/faults", {"target": "nothing", "faults": {"delay": 1}}),
        ("/faults", {"target": "*", "faults": {"explode": 1}}),
        ("/faults", {"target": "*", "faults": {"duplicate": 2}}),
        ("/faults", {"target": "*", "faults": {"duplicate": {"times": 0}}}),
        ("/faults", {"target": "*", "faults": [1]}),
        ("/faults", []),
    ],
)
def test_the_control_port_refuses_nonsense(rig: Rig, path: str, body: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        rig.control(path, body)
    assert refusal.value.code == 400
    assert json.load(refusal.value)["error"]
    assert rig.control("/health") == {"status": "ok"}
