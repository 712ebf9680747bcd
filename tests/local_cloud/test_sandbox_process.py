"""The sandbox as a process: started, killed, started again; and its side door."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nsps_local.sandbox import Sandbox, StateInUse
from nsps_testing.waiting import wait_for

from tests.local_cloud.sandbox_kit import Api, receiver


class Process:
    def __init__(self, state: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "nsps_local.sandbox", "--state", str(state), *arguments]
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ready(self) -> str:
        assert self.popen.stdout
        line = self.popen.stdout.readline()
        assert line.startswith("PortaBilling sandbox ready on http://127.0.0.1:"), line
        return line.split()[-1]

    def end(self, number: int) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(10)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    processes: list[Process] = []

    def start(*arguments: str, config: dict[str, Any] | None = None) -> Process:
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
            arguments = ("--config", str(tmp_path / "config.json"), *arguments)
        processes.append(Process(tmp_path / "state", *arguments))
        return processes[-1]

    yield start
    for process in processes:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)
        process.popen.communicate()


def test_a_killed_sandbox_keeps_subscribers_and_queue(run: Any) -> None:
    """kill -9 with events waiting, one in flight, one done: later each is delivered."""
    with receiver() as hooks:
        config = {"webhook": {"url": hooks.url, "async_mode": False, "request_timeout": 20}}
        first = run(config=config)
        api = Api(first.ready())
        add = {"i_customer": 2501, "i_product": 61}
        api.do("add_account", msisdn="447700900001", i_sim_card=3793, **add)
        wait_for(lambda: api.control("events")["counts"] == {"done": 1})
        hooks.hold.clear()
        made = api.do("add_account", msisdn="447700900002", i_sim_card=3794, **add)
        api.do("block_account", i_account=made["i_account"])
        api.do("swap_sim", i_account=made["i_account"], i_sim_card=3795)
        wait_for(lambda: api.control("events")["counts"] == {"done": 1, "sending": 1, "waiting": 2})
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        hooks.hold.set()
        second = run(config=config)
        api = Api(second.ready())
        wait_for(lambda: api.control("events")["counts"] == {"done": 4})
        numbers = [h.i_event for h in hooks.hooks]
        assert numbers == [7601, 7602, 7602, 7603, 7604], "the one in flight came twice"
        accounts = {a["id"]: a for a in api.control("state")["accounts"]}
        assert accounts["447700900002@msisdn"]["sim"]["i_sim_card"] == 3795
        assert second.end(signal.SIGTERM) == 0


def test_no_change_is_half_written_when_killed_at_any_moment(run: Any) -> None:
    """A card is moved to and fro under fire; after the kill every move has both events."""
    process = run(config={"webhook": {"paused": True}})
    api = Api(process.ready())
    add = {"i_customer": 2501, "i_product": 61}
    a = api.do("add_account", msisdn="447700900001", i_sim_card=3793, **add)["i_account"]
    b = api.do("add_account", msisdn="447700900002", **add)["i_account"]
    pid = process.popen.pid
    for moves in range(1, 1000):
        try:
            api.do("move_sim", i_sim_card=3793, i_account=b if moves % 2 else a)
        except requests.RequestException:
            break
        if moves == 25:
            subprocess.Popen(["sh", "-c", f"sleep 0.05; kill -9 {pid}"])
    process.popen.wait(10)
    again = Api(run(config={"webhook": {"paused": True}}).ready())
    events = again.control("events?limit=5000")["events"]
    replaced = [e for e in events if e["event_type"] == "SIM/Replaced"][:-1]
    assert len(replaced) >= 50 and len(replaced) % 2 == 0
    holders = {x["i_account"] for x in again.control("state")["accounts"] if x["sim"]}
    assert holders == {b if (len(replaced) // 2) % 2 else a}


def test_sigterm_ends_it_at_once_even_when_a_receiver_and_a_call_hang(run: Any) -> None:
    with receiver() as hooks:
        hooks.hold.clear()
        process = run(config={"webhook": {"url": hooks.url}})
        api = Api(process.ready())
        api.do("add_account", msisdn="447700900001", i_customer=2501, i_product=61, i_sim_card=3793)
        api.control("faults", {"fault": "hang", "seconds": 60})
        with pytest.raises(requests.Timeout):
            api.raw("Env/get_env_info", timeout=0.2)
        wait_for(lambda: hooks.hooks)
        began = time.monotonic()
        assert process.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 20
        assert process.popen.stderr.read() == ""


def test_a_busy_port_is_one_sentence_and_status_2(run: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = run("--port", str(port))
        out, err = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 2 and out == ""
    assert err.count("\n") == 1 and f"127.0.0.1:{port}" in err, err


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("{", "bad.json"),
        ('{"webhok": {}}', "webhok"),
        ('{"api": {"unknown": "x"}}', "api.unknown"),
    ],
)
def test_a_bad_configuration_is_one_sentence(
    run: Any, tmp_path: Path, text: str, about: str
) -> None:
    (tmp_path / "bad.json").write_text(text)
    process = run("--config", str(tmp_path / "bad.json"))
    _, err = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 2
    assert err.count("\n") == 1 and about in err, err


def test_a_secret_in_a_bad_configuration_is_not_printed(run: Any, tmp_path: Path) -> None:
    bad = {"admin": {"password": ["CANARY"]}, "webhook": {"basic_key": {"CANARY": 1}}}
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    _, err = run("--config", str(tmp_path / "bad.json")).popen.communicate(timeout=20)
    assert "admin.password" in err and "CANARY" not in err


def test_one_state_directory_has_one_sandbox(tmp_path: Path) -> None:
    with Sandbox(tmp_path), pytest.raises(StateInUse, match="in use"):
        Sandbox(tmp_path)
    Sandbox(tmp_path).stop()


def test_it_stops_at_once_whoever_is_still_connected(tmp_path: Path) -> None:
    before = threading.active_count()
    sandbox = Sandbox(tmp_path).start()
    api = Api(sandbox.url)
    api.control("faults", {"fault": "hang", "seconds": 60})
    with pytest.raises(requests.Timeout):
        api.raw("Env/get_env_info", timeout=0.2)
    silent = socket.create_connection(("127.0.0.1", int(api.url.rsplit(":", 1)[1])))
    wait_for(lambda: threading.active_count() >= before + 4)
    began = time.monotonic()
    sandbox.stop()
    assert time.monotonic() - began < 20
    assert threading.active_count() == before, "no thread is left to use the closed database"
    assert silent.recv(1) == b""
    silent.close()


def test_a_stopped_sandbox_hangs_up_on_everybody(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).start()
    api = Api(sandbox.url)
    api.login()
    assert api.http.get(sandbox.url + "/health", timeout=5).json()["status"] == "Healthy"
    sandbox.stop()
    with pytest.raises(requests.ConnectionError):
        api.http.get(api.url + "/health", timeout=5)


# ---- the side door


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Sandbox(tmp_path) as sandbox:
        yield Api(sandbox.url)


def test_the_seed_is_ready_for_a_demonstration(api: Api) -> None:
    state = api.control("state")
    assert [c["name"] for c in state["customers"]] == ["Alba Mobile", "Brisa Telecom"]
    assert [p["name"] for p in state["products"] if not p["addon_priority"]] == [
        "Mobile S",
        "Mobile L",
    ]
    assert len(state["free_sim_cards"]) == 12 and state["accounts"] == []
    assert state["free_sim_cards"][0]["imsi"] == "001010000000001"
    assert state["queue"] == {} and state["faults"] == []


def test_operations_are_listed_and_take_an_account_by_number(api: Api) -> None:
    operations = api.control("do")
    assert operations["block_account"] == {"i_account": "int"}
    assert operations["swap_sim"]["i_sim_card"] == "int"
    api.do("add_account", msisdn="447700900001", i_customer=2501, i_product=61)
    for account in ("447700900001", "447700900001@msisdn"):
        api.do("block_account", account=account)
    assert api.control("state")["accounts"][0]["status"] == "blocked"


@pytest.mark.parametrize(
    ("path", "body", "status", "about"),
    [
        ("do/explode", {}, 404, "no operation explode"),
        ("do/block_account", {"i_account": 1}, 404, "no i_account 1"),
        ("do/block_account", {"account": "1"}, 404, "no such account"),
        ("do/block_account", {}, 400, "i_account"),
        ("do/block_account", {"i_account": "x"}, 400, "i_account"),
        ("do/block_account", {"i_account": 1, "why": 1}, 400, "why"),
        ("do/block_account", [], 400, "object"),
        ("do/_close", {}, 404, "no operation"),
        ("do/add_customer", {"name": "Alba Mobile"}, 400, "already"),
        ("settings", {"webhook": {"token_rate": 0}}, 400, "token_rate"),
        ("settings", {"webhook": 5}, 400, "webhook"),
        ("settings", {"colour": {}}, 400, "colour"),
        ("seed", {"accounts": "many"}, 400, "accounts"),
        ("events/1/resend", {}, 404, "no event"),
        ("state?limit=x", None, 400, "limit"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    api: Api, path: str, body: Any, status: int, about: str
) -> None:
    answer = api.control_raw(path, body)
    assert answer.status_code == status, answer.text
    assert about in answer.json()["error"]


def test_a_web_page_cannot_post_to_the_side_door(api: Api) -> None:
    answer = requests.post(
        api.url + "/sandbox/do/block_customer", data='{"i_customer": 2501}', timeout=5
    )
    assert answer.status_code == 400 and "Content-Type" in answer.json()["error"]


def test_settings_change_whole_or_not_at_all_and_hide_secrets(api: Api) -> None:
    api.control("settings", {"webhook": {"basic_key": "CANARY", "url": "http://127.0.0.1:1/"}})
    refused = api.control_raw("settings", {"webhook": {"url": None, "retry_delay": -1}})
    assert refused.status_code == 400
    shown = api.control("settings")
    assert shown["webhook"]["url"] == "http://127.0.0.1:1/"
    assert "CANARY" not in json.dumps(shown) and "sandbox-password" not in json.dumps(shown)
    api.control("settings", {"admin": {"password": "another"}})
    assert "faultcode" in api.login() and "access_token" in api.login(
        login="nsps", password="another"
    )


def test_subscribers_are_searched(api: Api) -> None:
    api.control("seed", {"accounts": 50})
    api.do(
        "add_account",
        msisdn="447700900001",
        i_customer=2501,
        i_product=61,
        i_sim_card=3793,
        firstname="Ada",
        lastname="Byron",
    )
    for text in ("900001", "Ada By", "001010000000001"):
        found = api.control(f"state?search={text}")
        assert [a["id"] for a in found["accounts"]] == ["447700900001@msisdn"], text
    page = api.control("state?limit=10&offset=5")
    assert len(page["accounts"]) == 10 and page["total"] == 51


def test_an_event_is_shown_with_every_attempt(api: Api) -> None:
    with receiver(503, (400, "no")) as hooks:
        api.control("settings", {"webhook": {"url": hooks.url, "retry_delay": 0.05}})
        made = api.do(
            "add_account", msisdn="447700900001", i_customer=2501, i_product=61, i_sim_card=3793
        )
        path = f"events/{made['events'][0]['i_event']}"
        wait_for(lambda: api.control(path)["state"] == "dropped")
        event = api.control(path)
        assert [(a["attempt"], a["status"], a["answer"]) for a in event["attempts"]] == [
            (1, 503, ""),
            (2, 400, "no"),
        ]
        assert event["event_type"] == "SIM/Replaced" and event["next_try"] is None
        api.control(path + "/resend", {})
        wait_for(lambda: api.control(path)["state"] == "done")


def test_the_page_needs_nothing_from_elsewhere(api: Api) -> None:
    page = requests.get(api.url + "/", timeout=5)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "http://" not in page.text and "https://" not in page.text and "src=" not in page.text
    palette = requests.get(api.url + "/palette.css", timeout=5)
    assert palette.headers["Content-Type"].startswith("text/css")
    names = set(re.findall(r"var\((--[a-z-]+)\)", page.text))
    assert names and all(f"{name}:" in palette.text for name in names)


def test_a_hundred_thousand_subscribers_are_seeded_by_one_request(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as sandbox:
        api = Api(sandbox.url)
        seed = {"accounts": 100_000}
        made = requests.post(sandbox.url + "/sandbox/seed", json=seed, timeout=100).json()
        api.login()
        card = api.call("SIMCard/get_card_info", i_account=made["last"])["card_info"]
        assert card["i_account"] == made["last"] and card["status"] == "used"
        again = sandbox.billing.change_product(made["first"], 62)
        assert len(again["events"]) == 1
        assert (tmp_path / "portabilling.sqlite3").stat().st_size < 200e6
