"""What waits in Pub/Sub's subscriptions, as Cloud Monitoring measures it: each minute, and to be
read two to four minutes later. Pub/Sub itself tells no subscriber how much waits.

(Source: Google Cloud docs, Pub/Sub metrics; Monitoring API v3, projects.timeSeries.list.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.cloud.identity_token import AccessToken
from nsps.domain.outcome import Transient
from nsps.transport.deadline import Deadline
from nsps.transport.http import Http

CALL_SECONDS = 3.0
WINDOW = timedelta(minutes=10)
_METRIC = "pubsub.googleapis.com/subscription/"
MESSAGES, OLDEST = f"{_METRIC}num_undelivered_messages", f"{_METRIC}oldest_unacked_message_age"


@dataclass(frozen=True, slots=True)
class Queue:
    """One subscription. ``oldest_seconds``: the age of its oldest message; ``at``: measured."""

    messages: int
    oldest_seconds: int
    at: datetime


class Queues:
    """Reads; safe to share between threads. ``url``: of the Monitoring API."""

    def __init__(self, project: str, deployment: str, url: str, http: Http) -> None:
        self._url = f"{url.rstrip('/')}/v3/projects/{project}/timeSeries"
        self._prefix, self._http, self._token = f"{deployment}-", http, AccessToken()

    def read(self) -> dict[str, Queue]:
        """By subscription, without the deployment's name: hss, enrichment. Raises Transient."""
        deadline = Deadline(CALL_SECONDS)
        messages, oldest = (self._metric(name, deadline) for name in (MESSAGES, OLDEST))
        return {
            name: Queue(count, oldest.get(name, (0, at))[0], at)
            for name, (count, at) in messages.items()
        }

    def _metric(self, name: str, deadline: Deadline) -> dict[str, tuple[int, datetime]]:
        """The newest value of each subscription, and its time."""
        now = datetime.now(UTC)
        starts = f'resource.labels.subscription_id = starts_with("{self._prefix}")'
        answer = self._http.request(
            "GET",
            self._url,
            params={
                "filter": f'metric.type = "{name}" AND {starts}',
                "interval.startTime": _rfc3339(now - WINDOW),
                "interval.endTime": _rfc3339(now),
            },
            headers={"Authorization": f"Bearer {self._token(deadline)}"},
            deadline=deadline,
            idempotent=True,
        )
        if answer.status != 200:
            raise Transient(f"Cloud Monitoring answered HTTP {answer.status}")
        try:
            return dict(map(self._newest, answer.json().get("timeSeries", [])))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise Transient("Cloud Monitoring's answer is not what it must be") from None

    def _newest(self, series: Mapping[str, Any]) -> tuple[str, tuple[int, datetime]]:
        name = str(series["resource"]["labels"]["subscription_id"]).removeprefix(self._prefix)
        point = series["points"][0]  # the newest comes first
        at = datetime.fromisoformat(point["interval"]["endTime"])
        return name, (int(point["value"]["int64Value"]), at)


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
