"""The part of Cloud Monitoring that the console asks: what waits in each subscription.

From the embedded Pub/Sub's own figures, at this moment; Google's measures are minutes old. Google's
emulator has none.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import requests
from nsps.cloud.queues import MESSAGES, OLDEST

_FIGURES = {MESSAGES: "backlog", OLDEST: "oldest_unacked_seconds"}
_FILTER = re.compile(
    r'metric\.type = "([^"]+)" AND resource\.labels\.subscription_id = starts_with\("([^"]*)"\)'
)


def time_series(control: str | None, wanted: str) -> dict[str, Any]:
    """The answer of projects.timeSeries.list to a filter. ``control``: of the embedded Pub/Sub."""
    read = _FILTER.fullmatch(wanted)
    if control is None or read is None or read[1] not in _FIGURES:
        return {}
    found = requests.get(f"{control}/metrics", timeout=5).json()["subscriptions"]
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = {path: path.rpartition("/")[2] for path in found}
    return {
        "timeSeries": [
            {
                "metric": {"type": read[1]},
                "resource": {"type": "pubsub_subscription", "labels": {"subscription_id": name}},
                "points": [
                    {
                        "interval": {"startTime": at, "endTime": at},
                        "value": {"int64Value": str(int(found[path][_FIGURES[read[1]]]))},
                    }
                ],
            }
            for path, name in names.items()
            if name.startswith(read[2])
        ]
    }
