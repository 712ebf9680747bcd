"""EventSender: the ESPF handler that posts events to the webhook, with its real manners.

200 and nothing else: done. 4xx: dropped for ever. Any other status (201, 204 and redirects too), a
broken connection or no answer in time: sent again after a delay, with the same i_event. In async
mode requests go out at a rate without waiting for each other, so order is not kept; in sync mode
strictly one by one, oldest due first.

Source: PortaOne docs "Receiving provisioning events" and the EventSender settings. The retry delay
and whether a failed event holds back the others in sync mode are not published; here it does not.
"""

from __future__ import annotations

import json
import threading
import time
from email.utils import formatdate

import requests
from requests.adapters import HTTPAdapter

from nsps_local.sandbox.config import Webhook
from nsps_local.sandbox.event_queue import Attempt, EventQueue, Verdict
from nsps_local.sandbox.store import Row
from nsps_local.sandbox.times import Clock
from nsps_local.sandbox.webhook_auth import credentials

IN_FLIGHT = 128
IDLE_SECONDS = 5.0


class TokenBucket:
    """TokenRate requests a second on average, TokenBurstiness in the best second."""

    def __init__(self, burst: float, now: float) -> None:
        self._tokens = burst
        self._at = now

    def wait(self, rate: float, burst: float, now: float) -> float:
        """Take a token: 0.0, or seconds after which to ask again."""
        self._tokens = min(burst, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / rate


class EventSender:
    """Reads the queue in one thread, sends in others. Settings may change while it runs; call
    wake() then.
    """

    def __init__(self, queue: EventQueue, webhook: Webhook, clock: Clock) -> None:
        self._queue = queue
        self._webhook = webhook
        self._clock = clock
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._slots = threading.BoundedSemaphore(IN_FLIGHT)
        self._bucket = TokenBucket(webhook.token_burstiness, time.monotonic())
        self._http = _session()
        self._thread = threading.Thread(target=self._run, name="espf-queue", daemon=True)
        queue.on_new(self.wake)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop reading the queue; what is under way is sent again at the next start."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._http.close()

    def wake(self) -> None:
        self._woken.set()

    def _run(self) -> None:
        while True:
            self._woken.clear()
            if self._stopped.is_set():
                return
            event = self._next()
            if event is None:
                self._woken.wait(self._idle())
            elif self._webhook.async_mode:
                self._send_later(event)
            else:
                self._send(event)

    def _next(self) -> Row | None:
        if self._webhook.paused or not self._webhook.url:
            return None
        return self._queue.claim()

    def _idle(self) -> float:
        due = self._queue.next_due()
        if due is None or self._webhook.paused or not self._webhook.url:
            return IDLE_SECONDS
        return min(IDLE_SECONDS, max(0.01, due - self._clock()))

    def _send_later(self, event: Row) -> None:
        """Send in another thread, when the rate and the number of open requests allow it."""
        while wait := self._bucket.wait(
            self._webhook.token_rate, self._webhook.token_burstiness, time.monotonic()
        ):
            if self._stopped.wait(min(wait, 1.0)):
                break
        while not self._stopped.is_set():
            if self._slots.acquire(timeout=0.2):
                # A daemon: a receiver that hangs must not keep the process from ending.
                threading.Thread(target=self._send_in_slot, args=(event,), daemon=True).start()
                return
        self._queue.give_back(event["i_event"])

    def _send_in_slot(self, event: Row) -> None:
        try:
            self._send(event)
        finally:
            self._slots.release()

    def _send(self, event: Row) -> None:
        webhook = self._webhook
        if not webhook.url or webhook.paused:
            self._queue.give_back(event["i_event"])
            return
        attempt = self._post(webhook, webhook.url, json.dumps(self._queue.body(event)))
        if self._stopped.is_set():
            return  # the process ends: as after a kill, the event is sent again
        self._queue.settle(event["i_event"], attempt, self._verdict(event, attempt))
        self.wake()  # a retry has its time only now

    def _post(self, webhook: Webhook, url: str, body: str) -> Attempt:
        at, started = self._clock(), time.monotonic()
        date = formatdate(at, usegmt=True)
        headers = {"Date": date, "Content-Type": "application/json"}
        secret = credentials(webhook, date)
        if secret is not None:
            headers[webhook.auth_header] = secret
        timeout = webhook.request_timeout
        if webhook.async_mode:
            timeout = min(timeout, webhook.max_wait_time)
        try:
            answer = self._http.post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            )
        except (requests.RequestException, ValueError) as error:
            return Attempt(at, time.monotonic() - started, None, error=_reason(error))
        return Attempt(at, time.monotonic() - started, answer.status_code, answer.text)

    def _verdict(self, event: Row, attempt: Attempt) -> Verdict:
        if attempt.status == 200:
            return Verdict("done")
        if attempt.status is not None and 400 <= attempt.status <= 499:
            return Verdict("dropped")
        limit = self._webhook.max_attempts
        if limit and event["attempts"] + 1 >= limit:
            return Verdict("given_up")
        return Verdict("waiting", self._clock() + self._webhook.retry_delay)


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=IN_FLIGHT)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers.clear()
    session.headers["User-Agent"] = "PortaOne-ESPF-EventSender"
    return session


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "connection failed"
    return f"cannot be sent: {type(error).__name__}"
