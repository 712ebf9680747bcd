"""What the bench measures with: figures, the external system, the open loop, processor time."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import socket
import subprocess
import sys
import time

import pytest
from nsps_local.bench import processor
from nsps_local.bench.figures import Aim, Section, percentile
from nsps_local.bench.load import open_loop, webhook
from nsps_local.bench.system import ANSWER_SECONDS, System
from nsps_local.pubsub.http_client import PushClient


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1), (0.995, 100)]
)
def test_percentiles_of_one_to_a_hundred(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected
    assert math.isnan(percentile([], share))


def test_a_figure_says_whether_its_aim_is_reached() -> None:
    section = Section("pace")
    section.add("sustained", 149.9, "events/s", Aim("at_least", 150))
    section.add("median", 60, "ms", Aim("at_most", 60))
    first, second = section.as_json()["figures"]
    assert (first["reached"], second["reached"]) == (False, True)
    assert first["aim"] == {"at_least": 150}


@pytest.mark.parametrize(
    ("value", "shown"), [(4584.1, "4584"), (584.203, "584"), (51.307, "51.3"), (2.467, "2.47")]
)
def test_a_figure_is_shown_with_three_digits(value: float, shown: str) -> None:
    section = Section("pace")
    section.add("median", value, "ms")
    assert f"| median | {shown} ms |" in section.as_markdown()


def test_the_open_loop_keeps_its_pace_and_counts_from_the_schedule() -> None:
    """The receiver answers one request at a time, slower than they come: latency must grow."""

    async def run() -> tuple[float, float, float]:
        lock = asyncio.Lock()

        async def post(_: bytes) -> int:
            async with lock:
                await asyncio.sleep(0.02)
            return 200

        events = zip(itertools.count(), itertools.count())
        started = time.monotonic()
        sent = await open_loop(post, events, rate=100, seconds=0.5)
        spread = max(sent.scheduled.values()) - min(sent.scheduled.values())
        return spread, max(sent.acknowledged), time.monotonic() - started

    spread, slowest, took = asyncio.run(run())
    assert spread == pytest.approx(0.49, abs=0.01)
    assert slowest > 0.4
    assert took >= 1.0


def test_the_external_system_answers_after_its_time_and_notes_the_event() -> None:
    async def run() -> System:
        system, client, port = System(), PushClient(), free_port()
        await system.start(port)
        body = json.dumps({"data": json.loads(webhook(7, 1))}).encode()
        for _ in range(2):
            started = time.monotonic()
            assert await client.post(f"http://127.0.0.1:{port}/", {}, body) == 200
            assert time.monotonic() - started >= ANSWER_SECONDS * 0.9
        await system.stop()
        with pytest.raises(OSError, match=r".*"):
            await asyncio.wait_for(client.post(f"http://127.0.0.1:{port}/", {}, body), 5)
        return system

    system = asyncio.run(run())
    assert list(system.provisioned) == [7]
    assert system.calls == 2


def test_processor_time_is_that_of_the_process_and_all_below_it() -> None:
    spin = (
        "import sys, time\n"
        "while time.process_time() < 0.3: pass\n"
        "print(flush=True)\n"
        "sys.stdin.read()"
    )
    # A process of its own group below it counts as well: PostgreSQL's are such.
    run = "import subprocess, sys; subprocess.run(sys.argv[1:], start_new_session=True)"
    command = [sys.executable, "-c", run, sys.executable, "-c", spin]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as busy:
        assert busy.stdin is not None
        assert busy.stdout is not None
        busy.stdout.readline()
        assert 0.25 <= processor.seconds_of({"busy": busy.pid})["busy"] <= 0.6
        assert processor.resident_mib(busy.pid) > 3
        busy.stdin.close()
