"""What waits in Pub/Sub, as the console asks Cloud Monitoring for it: here its stand-in, which has
the embedded Pub/Sub's own figures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from nsps.cloud.queues import Queues
from nsps.domain.outcome import Transient
from nsps.transport.http import Http
from nsps_local.stack.metadata import MetadataServer
from nsps_local.stack.monitoring import time_series
from nsps_local.stack.ports import HOST, reserve_base


class _Metrics(BaseHTTPRequestHandler):
    """The control port of a Pub/Sub with two deployments' subscriptions."""

    def do_GET(self) -> None:
        names = ("acme-hss", "acme-enrichment", "other-hss")
        found = {
            f"projects/p/subscriptions/{name}": {"backlog": n, "oldest_unacked_seconds": 90.5 * n}
            for n, name in enumerate(names)
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"subscriptions": found}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def control() -> Iterator[str]:
    server = HTTPServer((HOST, 0), _Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def monitoring(series: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    port = reserve_base()
    stand_in = MetadataServer(HOST, port, lambda *_: "", {}, series)
    stand_in.start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"{HOST}:{port}/console@p")
    yield f"http://{HOST}:{port}"
    stand_in.stop()


@pytest.fixture
def google(control: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with monitoring(partial(time_series, control), monkeypatch) as url:
        yield url


def test_each_subscription_of_the_deployment_is_measured(google: str) -> None:
    found = Queues("p", "acme", google, Http()).read()
    assert {name: (each.messages, each.oldest_seconds) for name, each in found.items()} == {
        "hss": (0, 0),
        "enrichment": (1, 90),
    }


def test_a_monitoring_that_refuses_is_not_known(google: str) -> None:
    with pytest.raises(Transient, match="Cloud Monitoring answered HTTP 403"):
        Queues("p/nothing", "acme", google, Http()).read()


@pytest.mark.parametrize(
    "answer", [[], {"timeSeries": [{}]}, {"timeSeries": None}, {"timeSeries": [{"points": []}]}]
)
def test_an_answer_of_another_shape_leaves_the_queues_unknown(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monitoring(lambda _filter: answer, monkeypatch) as url:
        with pytest.raises(Transient, match="Cloud Monitoring's answer"):
            Queues("p", "acme", url, Http()).read()
