"""The peer that NSPS is measured against works, and how both are compared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import requests
from nsps_local.bench import page, processor
from nsps_local.bench.figures import Aim, Section
from nsps_local.bench.flow import Step
from nsps_local.bench.load import webhook
from nsps_local.bench.peer import compare, running
from nsps_local.bench.system import System
from nsps_local.pubsub.http_client import PushClient
from nsps_local.sandbox import Sandbox
from nsps_local.stack.ports import ROOM, reserve_base
from nsps_testing.waiting import wait_for


def measured(milliseconds: float, lasting: float, spent: float = 1.0) -> compare.Measured:
    step = Step(
        rate=20,
        seconds=1,
        events=20,
        provisioned=(milliseconds / 1000,) * 20,
        acknowledged=(),
        refused=0,
        behind=0,
        pace=20,
        told_after=0,
        cost={"ingress": spent, "sandbox": 99, "load client and external system": 99},
    )
    return compare.Measured(step, lasting)


def test_ratios_are_medians_of_the_rounds_and_fakes_do_not_count() -> None:
    ours = [measured(60, 90, 12), measured(80, 60, 12), measured(50, 60, 12)]
    theirs = [measured(60, 60, 24), measured(40, 60, 24), measured(100, 60, 24)]
    made = {figure.name: figure for figure in compare.section(ours, theirs).figures}
    assert made["20 events/s, median: NSPS"].value == 60
    assert made["20 events/s, median: ratio"].value == 1.0  # of 1.0, 2.0 and 0.5
    assert made["processor time an event: NSPS"].value == 12
    assert made["processor time an event: ratio"].value == 0.5
    assert made["the pace that lasts: ratio"].as_json()["reached"] is False
    assert made["events that did not arrive: NSPS"].value == 0


def test_a_run_replaces_the_figures_of_the_page_and_nothing_else() -> None:
    section = Section("pace")
    section.add("sustained", 60, "events/s", Aim("at_least", 150))
    before = f"above\n{page.BEGIN}old\n{page.END}below\n"
    made = page.rendered(before, {"measured": "today", "cores": 2}, [section])
    assert made.startswith("above\n") and made.endswith("below\n") and "old" not in made
    assert "Measured today, cores 2." in made
    assert "| sustained | **60 events/s** | >= 150 |  |" in made
    assert page.rendered(made, {"measured": "today", "cores": 2}, [section]) == made
    with pytest.raises(ValueError, match="has no place"):
        page.rendered("nothing", {}, [])
    assert page.rendered(page.PAGE.read_text(), {}, []), "the page of the documents has a place"


def test_where_a_daemon_is_missing_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install redis-server" in (running.missing() or "")


def test_the_peer_provisions_an_event(tmp_path: Path) -> None:
    """Read from the sandbox, sent to the external system, and its processes' time counted."""
    missing = running.missing()
    if missing is not None:
        pytest.skip(missing)
    with Sandbox(tmp_path, config={"webhook": {"enabled": False}}) as sandbox:
        seed = requests.post(f"{sandbox.url}/sandbox/seed", json={"accounts": 1}, timeout=20)
        i_account = seed.json()["first"]
        credentials = {"login": "nsps", "password": "sandbox-password"}
        portabilling = {"url": sandbox.url, "credentials": credentials}
        port = reserve_base() + ROOM - 2
        with running.running(portabilling, port) as peer:
            asyncio.run(provisioned(peer, port, i_account))
            wait_for(lambda: peer.statuses() == 1)
            spent = processor.seconds_of(peer.groups())
            assert set(spent) == {"Redis", "PostgreSQL", "web", "worker"}
            assert min(spent["web"], spent["worker"]) > 0.1
    assert not any(Path(f"/proc/{pid}").exists() for pid in peer.groups().values())


async def provisioned(peer: running.Peer, port: int, i_account: int) -> None:
    """Send one event, and wait until the external system has it."""
    system, client = System(), PushClient()
    await system.start(port)
    try:
        assert await client.post(peer.ingress, peer.headers, webhook(7, i_account)) == 200
        async with asyncio.timeout(20):
            while 7 not in system.provisioned:
                await asyncio.sleep(0.02)
    finally:
        client.close()
        await system.stop()
