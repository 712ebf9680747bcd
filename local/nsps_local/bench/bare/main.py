"""The least that a function can do: JSON in, JSON out. What the ingress is measured against."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import flask


def main(request: flask.Request) -> tuple[str, int, dict[str, str]]:
    """Answers {"event_type": ...} of the body."""
    document = json.loads(request.get_data(cache=False))
    answer = json.dumps({"event_type": document["event_type"]})
    return answer, 200, {"Content-Type": "application/json"}
