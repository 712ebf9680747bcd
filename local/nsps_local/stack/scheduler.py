"""Cloud Scheduler on one machine: the recorded jobs, called when their minute comes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import requests

from nsps_local.pubsub.identities import Identities
from nsps_local.pubsub.push import FORBIDDEN
from nsps_local.recording.topology import Job

_log = logging.getLogger(__name__)

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
CALL_SECONDS = 60


def is_due(schedule: str, moment: datetime) -> bool:
    """Whether a five-field cron schedule names this minute. Raises ValueError for another form."""
    fields = schedule.split()
    if len(fields) != len(_RANGES):
        raise ValueError(f"schedule {schedule!r} does not have five fields")
    weekday = moment.isoweekday() % 7
    now = (moment.minute, moment.hour, moment.day, moment.month, weekday)
    return all(
        value in _values(field, *bounds)
        for field, bounds, value in zip(fields, _RANGES, now, strict=True)
    )


def _values(field: str, low: int, high: int) -> set[int]:
    """What one field names: ``*``, ``*/5``, ``1-5``, ``1,2``."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        begin = low if span == "*" else int(first)
        end = high if span == "*" or (step and not dash) else int(last) if dash else begin
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


class Scheduler:
    """Calls each job at its minute with a token of its service account.

    ``identities``: a job is called only where its account may call the function.
    """

    def __init__(
        self, jobs: Sequence[Job], token: Callable[[str, str], str], identities: Identities
    ) -> None:
        self._jobs, self._token, self._identities = jobs, token, identities
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(60 - datetime.now(UTC).timestamp() % 60):
            moment = datetime.now(UTC)
            for job in self._jobs:
                if is_due(job.schedule, moment):
                    threading.Thread(target=self.call, args=(job,), daemon=True).start()

    def call(self, job: Job) -> int | None:
        """Call one job now; its HTTP status, None if it could not be reached."""
        if not self._identities.admits(job.service_account, job.url):
            _log.warning("job %s: %s may not call %s", job.name, job.service_account, job.url)
            return FORBIDDEN
        token = self._token(job.service_account, job.audience)
        headers = {"Authorization": f"Bearer {token}"}
        try:
            answer = requests.request(job.method, job.url, headers=headers, timeout=CALL_SECONDS)
        except requests.RequestException as error:
            _log.warning("job %s could not be called: %s", job.name, type(error).__name__)
            return None
        return answer.status_code
