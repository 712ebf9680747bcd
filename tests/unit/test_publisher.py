"""Publishing: each message for certain; those that come during a call go together in the next."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from google.api_core.exceptions import InvalidArgument, ServiceUnavailable
from nsps.cloud import messages
from nsps.cloud.messages import Publisher
from nsps.domain.outcome import Transient
from nsps_testing.waiting import wait_for

TOPIC, OTHER = "projects/p/topics/one", "projects/p/topics/other"


class PubSub:
    """Answers a call once it may; ``fails``: what the calls raise, in turn (None: nothing)."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.fails: list[BaseException | None] = []
        self.may = threading.Semaphore(0)

    def publish(self, request: Any, *, retry: Any, timeout: float) -> Any:
        sent = [bytes(each.data) for each in request.messages]
        self.calls.append(sent)
        assert self.may.acquire(timeout=10)
        failure = self.fails.pop(0) if self.fails else None
        if failure is not None:
            raise failure
        if b"bad" in sent:
            raise InvalidArgument("one of them")  # type: ignore[no-untyped-call]
        return SimpleNamespace(message_ids=[f"id of {each.decode()}" for each in sent])


class Rig:
    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.pubsub = PubSub()
        self.publisher = Publisher(self.pubsub)
        self._threads = threads

    def publish(self, data: bytes, topic: str = TOPIC, timeout: float = 10) -> Future[str]:
        """In a thread of its own; returns when it waits for Pub/Sub, or with others."""
        before = self._under_way()
        done = self._threads.submit(self.publisher.publish, topic, data, {"a": "b"}, timeout)
        wait_for(lambda: self._under_way() != before)
        return done

    def _under_way(self) -> tuple[int, int]:
        return len(self.pubsub.calls), sum(map(len, self.publisher._waiting.values()))

    def let(self, calls: int) -> None:
        self.pubsub.may.release(calls)


@pytest.fixture
def rig() -> Any:
    with ThreadPoolExecutor(16) as threads:
        yield Rig(threads)


def test_where_nothing_is_under_way_each_is_sent_at_once(rig: Rig) -> None:
    rig.let(3)
    assert [rig.publisher.publish(TOPIC, data, {}) for data in (b"1", b"2", b"3")] == [
        "id of 1", "id of 2", "id of 3"
    ]  # fmt: skip
    assert rig.pubsub.calls == [[b"1"], [b"2"], [b"3"]]
    assert not rig.publisher._waiting


def test_those_that_come_during_a_call_go_together_in_the_next(rig: Rig) -> None:
    sent = [rig.publish(str(number).encode()) for number in range(5)]
    assert rig.pubsub.calls == [[b"0"]]
    rig.let(1)
    assert sent[0].result(10) == "id of 0"
    wait_for(lambda: len(rig.pubsub.calls) == 2)
    assert not any(each.done() for each in sent[1:])  # not before their own call is confirmed
    rig.let(1)
    assert [each.result(10) for each in sent] == [f"id of {number}" for number in range(5)]
    assert rig.pubsub.calls == [[b"0"], [b"1", b"2", b"3", b"4"]]


def test_topics_do_not_wait_for_each_other(rig: Rig) -> None:
    one, other = rig.publish(b"1"), rig.publish(b"2", OTHER)
    assert rig.pubsub.calls == [[b"1"], [b"2"]]
    rig.let(2)
    assert (one.result(10), other.result(10)) == ("id of 1", "id of 2")


def test_one_bad_message_fails_alone(rig: Rig) -> None:
    sent = {data: rig.publish(data) for data in (b"first", b"good", b"bad", b"fine")}
    rig.let(5)
    with pytest.raises(Transient, match=r"topic one .*InvalidArgument"):
        sent.pop(b"bad").result(10)
    for data, done in sent.items():
        assert done.result(10) == f"id of {data.decode()}"


_DOWN = ServiceUnavailable("down")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("failure", [_DOWN, KeyboardInterrupt()])
def test_a_call_that_fails_confirms_nothing_and_the_next_one_is_made(
    rig: Rig, failure: BaseException
) -> None:
    """Interrupted, too: whoever waits hears of it, and the topic is not stuck."""
    rig.pubsub.fails = [None, failure]
    sent = [rig.publish(data) for data in (b"0", b"1", b"2")]
    rig.let(1)
    wait_for(lambda: len(rig.pubsub.calls) == 2)
    later = rig.publish(b"3")
    rig.let(2)
    assert (sent[0].result(10), later.result(10)) == ("id of 0", "id of 3")
    with pytest.raises(Transient):
        sent[1].result(10)
    with pytest.raises((Transient, KeyboardInterrupt)):
        sent[2].result(10)


def test_who_waits_too_long_is_not_sent(rig: Rig) -> None:
    first = rig.publish(b"1")
    late = rig.publish(b"2", timeout=0.05)
    last = rig.publish(b"3")
    with pytest.raises(Transient, match=r"within 0.05 s \(TimeoutError\)"):
        late.result(10)
    rig.let(2)
    assert (first.result(10), last.result(10)) == ("id of 1", "id of 3")
    assert rig.pubsub.calls == [[b"1"], [b"3"]]


def test_an_answer_with_too_few_ids_confirms_nothing(rig: Rig) -> None:
    rig.pubsub.publish = lambda *_, **__: SimpleNamespace(message_ids=[])  # type: ignore[method-assign]
    with pytest.raises(Transient):
        rig.publisher.publish(TOPIC, b"1", {})


@pytest.mark.parametrize(
    ("most", "size", "groups"), [(2, 10_000, [1, 2, 2]), (100, 30, [1, 1, 1, 1, 1])]
)
def test_a_call_has_its_limits(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, most: int, size: int, groups: list[int]
) -> None:
    monkeypatch.setattr(messages, "GROUP_MESSAGES", most)
    monkeypatch.setattr(messages, "GROUP_BYTES", size)
    sent = [rig.publish(b"x" * 20 + str(number).encode()) for number in range(5)]
    rig.let(5)
    assert all(each.result(10) for each in sent)
    assert [len(each) for each in rig.pubsub.calls] == groups
