"""EventSender's manners: 200 is done, 4xx is gone for ever, anything else comes again, with the
same i_event.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from nsps_local.sandbox import Sandbox
from nsps_testing.waiting import wait_for

from tests.local_cloud.sandbox_kit import Receiver, receiver

S = 61


def started(tmp_path: Path, hooks: Receiver | str, **webhook: Any) -> Sandbox:
    url = hooks if isinstance(hooks, str) else hooks.url
    config = {"webhook": {"url": url, "retry_delay": 0.05, **webhook}}
    return Sandbox(tmp_path, config=config)


def change(sandbox: Sandbox, n: int = 1) -> int:
    """Make an event; its number."""
    made = sandbox.billing.add_account(f"44770090{n:04d}", 2501, S, 3792 + n)
    return int(made["events"][0]["i_event"])


def finished(sandbox: Sandbox, i_event: int) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        event = sandbox.queue.event(i_event)
        assert event is not None
        return event if event["state"] not in ("waiting", "sending") else None

    event: dict[str, Any] = wait_for(done)
    return event


def test_200_is_done(tmp_path: Path) -> None:
    with receiver((200, "thank you")) as hooks, started(tmp_path, hooks) as sandbox:
        event = finished(sandbox, change(sandbox))
        assert event["state"] == "done"
        attempt = event["attempts"][0]
        assert (attempt["status"], attempt["answer"], attempt["error"]) == (200, "thank you", None)
        assert hooks.hooks[0].body == {
            "event_type": "SIM/Replaced",
            "variables": event["variables"],
        }


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 499])
def test_4xx_is_dropped_for_ever(tmp_path: Path, status: int) -> None:
    with receiver(status) as hooks, started(tmp_path, hooks) as sandbox:
        dropped = change(sandbox)
        assert finished(sandbox, dropped)["state"] == "dropped"
        later = change(sandbox, 2)
        assert finished(sandbox, later)["state"] == "done"
        assert [h.i_event for h in hooks.hooks] == [dropped, later], (
            "the dropped one never came again"
        )
        assert sandbox.queue.counts() == {"dropped": 1, "done": 1}


@pytest.mark.parametrize("status", [201, 202, 204, 302, 307, 500, 502, 503])
def test_anything_else_comes_again_with_the_same_number(tmp_path: Path, status: int) -> None:
    with receiver(status, status) as hooks, started(tmp_path, hooks) as sandbox:
        i_event = change(sandbox)
        event = finished(sandbox, i_event)
        assert event["state"] == "done"
        assert [a["status"] for a in event["attempts"]] == [status, status, 200]
        assert [h.i_event for h in hooks.hooks] == [i_event] * 3
        assert len({str(h.body) for h in hooks.hooks}) == 1
        assert {h.path for h in hooks.hooks} == {"/espf"}, "redirects are not followed"
        assert hooks.hooks[1].at - hooks.hooks[0].at >= 0.05, "after the delay"


def test_no_answer_in_time_comes_again(tmp_path: Path) -> None:
    with receiver() as hooks, started(tmp_path, hooks, request_timeout=0.2) as sandbox:
        hooks.hold.clear()
        i_event = change(sandbox)
        wait_for(lambda: len(hooks.hooks) >= 2, seconds=3)
        hooks.hold.set()
        event = finished(sandbox, i_event)
        assert event["state"] == "done"
        first = event["attempts"][0]
        assert first["status"] is None and first["error"] == "no answer in time"
        assert {h.i_event for h in hooks.hooks} == {i_event}


def test_nobody_there_comes_again(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started(tmp_path, f"http://127.0.0.1:{port}/") as sandbox, receiver() as hooks:
        i_event = change(sandbox)
        wait_for(lambda: len(sandbox.queue.event(i_event)["attempts"]) >= 2)  # type: ignore[index]
        sandbox.reconfigure({"webhook": {"url": hooks.url}})
        event = finished(sandbox, i_event)
        assert event["attempts"][0]["error"] == "connection failed"
        assert event["attempts"][-1]["status"] == 200


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/", "http://"])
def test_a_url_that_is_none_is_an_attempt_that_failed(tmp_path: Path, url: str) -> None:
    with started(tmp_path, url) as sandbox:
        i_event = change(sandbox)
        wait_for(lambda: len(sandbox.queue.event(i_event)["attempts"]) >= 2)  # type: ignore[index]
        with receiver() as hooks:
            sandbox.reconfigure({"webhook": {"url": hooks.url}})
            assert finished(sandbox, i_event)["state"] == "done"


def test_a_limit_of_attempts_gives_up(tmp_path: Path) -> None:
    with receiver(usual=503) as hooks, started(tmp_path, hooks, max_attempts=3) as sandbox:
        event = finished(sandbox, change(sandbox))
        assert event["state"] == "given_up" and len(event["attempts"]) == 3
        sandbox.reconfigure({"webhook": {"max_attempts": 0}})
        hooks.usual = 200
        sandbox.queue.resend(event["i_event"])
        again = finished(sandbox, event["i_event"])
        assert again["state"] == "done" and len(again["attempts"]) == 4


def test_basic_auth_date_and_type_are_sent(tmp_path: Path) -> None:
    with (
        receiver() as hooks,
        started(tmp_path, hooks, basic_user="username", basic_key="secret") as sandbox,
    ):
        finished(sandbox, change(sandbox))
        headers = hooks.hooks[0].headers
        assert headers["Authorization"] == "Basic " + base64.b64encode(b"username:secret").decode()
        assert headers["Content-Type"] == "application/json"
        sent = parsedate_to_datetime(headers["Date"]).timestamp()
        assert abs(sent - time.time()) < 10


def test_custom_auth_in_another_header(tmp_path: Path) -> None:
    settings = {
        "auth_header": "X-Espf-Auth",
        "auth_method": "Custom",
        "custom_type": "Plain",
        "custom_credentials": "passexample",
    }
    with receiver() as hooks, started(tmp_path, hooks, **settings) as sandbox:
        finished(sandbox, change(sandbox))
        assert hooks.hooks[0].headers["X-Espf-Auth"] == "Plain passexample"
        assert "Authorization" not in hooks.hooks[0].headers


@pytest.mark.parametrize(("signing", "prefix"), [("date_header", "date: "), ("date_value", "")])
def test_the_signature_covers_the_date(tmp_path: Path, signing: str, prefix: str) -> None:
    settings = {
        "auth_method": "Signature",
        "signature_key_id": "test",
        "signature_key": "signature",
        "signing_string": signing,
    }
    with receiver(503) as hooks, started(tmp_path, hooks, **settings) as sandbox:
        finished(sandbox, change(sandbox))
        for hook in hooks.hooks:
            text = (prefix + hook.headers["Date"]).encode()
            digest = base64.b64encode(hmac.new(b"signature", text, hashlib.sha1).digest()).decode()
            assert hook.headers["Authorization"] == (
                f'Signature keyId="test",algorithm="hmac-sha1",signature="{digest}"'
            )


def test_no_auth_when_told_so(tmp_path: Path) -> None:
    with receiver() as hooks, started(tmp_path, hooks, auth_method="None") as sandbox:
        finished(sandbox, change(sandbox))
        assert "Authorization" not in hooks.hooks[0].headers


def test_async_does_not_wait_for_answers(tmp_path: Path) -> None:
    with receiver() as hooks, started(tmp_path, hooks) as sandbox:
        hooks.hold.clear()
        numbers = [change(sandbox, n) for n in range(1, 9)]
        wait_for(lambda: len(hooks.hooks) == 8)
        hooks.hold.set()
        for number in numbers:
            assert finished(sandbox, number)["state"] == "done"


def test_sync_sends_one_by_one_in_order(tmp_path: Path) -> None:
    with receiver() as hooks, started(tmp_path, hooks, async_mode=False) as sandbox:
        hooks.hold.clear()
        numbers = [change(sandbox, n) for n in range(1, 9)]
        wait_for(lambda: hooks.hooks)
        time.sleep(0.1)
        assert len(hooks.hooks) == 1, "the second waits for the answer to the first"
        hooks.hold.set()
        finished(sandbox, numbers[-1])
        assert [h.i_event for h in hooks.hooks] == numbers


def test_the_rate_holds_after_the_burst(tmp_path: Path) -> None:
    with (
        receiver() as hooks,
        started(tmp_path, hooks, token_rate=20, token_burstiness=4, paused=True) as sandbox,
    ):
        numbers = [change(sandbox, n) for n in range(1, 13)]
        time.sleep(0.1)
        began = time.monotonic()
        sandbox.reconfigure({"webhook": {"paused": False}})
        for number in numbers:
            finished(sandbox, number)
        arrived = sorted(h.at - began for h in hooks.hooks)
        assert arrived[3] < 0.15, "a burst of four at once"
        assert arrived[11] >= 7 / 20, "eight more at twenty a second"


def test_paused_and_without_a_url_events_wait(tmp_path: Path) -> None:
    with receiver() as hooks, started(tmp_path, hooks, paused=True) as sandbox:
        i_event = change(sandbox)
        time.sleep(0.1)
        assert not hooks.hooks
        sandbox.reconfigure({"webhook": {"paused": False, "url": None}})
        time.sleep(0.1)
        assert not hooks.hooks
        sandbox.reconfigure({"webhook": {"url": hooks.url}})
        assert finished(sandbox, i_event)["state"] == "done"


def test_of_waiting_events_of_some_kinds_only_the_latest_is_sent(tmp_path: Path) -> None:
    with (
        receiver() as hooks,
        Sandbox(
            tmp_path,
            config={
                "webhook": {"url": hooks.url, "paused": True},
                "events": {"vocabulary": ["v1", "v2"]},
            },
        ) as sandbox,
    ):
        billing = sandbox.billing
        a = billing.add_account("447700900001", 2501, S)["i_account"]
        b = billing.add_account("447700900002", 2501, S)["i_account"]
        for account in (a, b, a, a):
            billing.exceed_quota(account, "msg")
        for _ in range(2):
            billing.block_account(a)
            billing.unblock_account(a)
        sandbox.reconfigure({"webhook": {"paused": False}})
        wait_for(lambda: not {"waiting", "sending"} & set(sandbox.queue.counts()))
        sent = [t for t in hooks.types() if "/" in t[0]]
        quota = "Account/Service/Msg/QuotaExceeded"
        assert sorted(sent, key=str).count((quota, a)) == 1
        assert sent.count((quota, b)) == 1
        assert sent.count(("Account/Blocked", a)) == 2, "other kinds are all sent"
        assert sandbox.queue.counts()["coalesced"] == 4, "two of v1 and two of v2"
        latest = max(h.i_event for h in hooks.hooks if h.body["event_type"] == quota)
        assert sandbox.queue.event(latest)["state"] == "done"  # type: ignore[index]


def test_many_events_are_all_delivered_once(tmp_path: Path) -> None:
    settings = {"token_rate": 5000, "token_burstiness": 5000}
    with receiver() as hooks, started(tmp_path, hooks, **settings) as sandbox:
        a = sandbox.billing.add_account("447700900001", 2501, S)["i_account"]
        for _ in range(150):
            sandbox.billing.block_account(a)
            sandbox.billing.unblock_account(a)
        wait_for(lambda: sandbox.queue.counts() == {"done": 300}, seconds=20)
        numbers = [h.i_event for h in hooks.hooks]
        assert len(numbers) == len(set(numbers)) == 300
