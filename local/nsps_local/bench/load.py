"""Load: as fast as it goes over a few connections, or at a constant rate whatever comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from nsps_local.pubsub.http_client import PushClient

CONNECTIONS = 8


def webhook(i_event: int, i_account: int) -> bytes:
    """A webhook's body as ESPF sends it."""
    variables = {
        "i_env": 1,
        "i_event": i_event,
        "i_account": i_account,
        "event_time": "2026-11-21 02:10:03",
    }
    return json.dumps({"event_type": "SIM/Updated", "variables": variables}).encode()


async def flat_out(
    url: str, headers: Mapping[str, str], bodies: Iterator[bytes], seconds: float
) -> float:
    """Requests answered with 200 per second, over a few connections at once.

    Raises RuntimeError for any other answer.
    """
    client = PushClient()
    ends = time.monotonic() + seconds
    answered = 0

    async def one_after_another() -> None:
        nonlocal answered
        while time.monotonic() < ends:
            status = await client.post(url, headers, next(bodies))
            if status != 200:
                raise RuntimeError(f"{url} answered {status}")
            answered += 1

    started = time.monotonic()
    await asyncio.gather(*(one_after_another() for _ in range(CONNECTIONS)))
    took = time.monotonic() - started
    client.close()
    return answered / took


@dataclass(slots=True)
class Sent:
    """What an open loop sent: i_event -> when it was to be sent (time.monotonic())."""

    scheduled: dict[int, float] = field(default_factory=dict)
    refused: int = 0
    acknowledged: list[float] = field(default_factory=list)
    """Seconds from the scheduled time to the ingress's answer."""


async def open_loop(
    post: Callable[[bytes], Awaitable[int]],
    events: Iterator[tuple[int, int]],
    rate: float,
    seconds: float,
) -> Sent:
    """Send ``rate`` events a second, whether or not those before were answered.

    ``events``: (i_event, i_account). Latency counts from the scheduled time, so that a sender
    that is held up hides nothing.
    """
    sent = Sent()
    running: set[asyncio.Task[None]] = set()
    started = time.monotonic() + 0.05

    async def one(i_event: int, i_account: int, due: float) -> None:
        try:
            status = await post(webhook(i_event, i_account))
        except OSError:
            status = 0
        if status == 200:
            sent.acknowledged.append(time.monotonic() - due)
        else:
            sent.refused += 1

    for number in range(round(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        i_event, i_account = next(events)
        sent.scheduled[i_event] = due
        task = asyncio.create_task(one(i_event, i_account, due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=30)
    return sent
