"""The metrics of the deployment, held against lines that the functions really write.

One stack lives through what the metrics are there for; then every filter of the recorded program
must have found its lines, with every label and value that it extracts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.types import PubsubMessage
from nsps.delivery import switch
from nsps_local.recording import Resource, Topology, record
from nsps_testing.waiting import wait_for

from tests.end_to_end.cloud_logging import entries, extract, matches
from tests.end_to_end.recorder import Recorder
from tests.end_to_end.whole_stack import DATABASE, WholeStack, configuration, webhook

pytestmark = pytest.mark.timeout(300)

METRIC = "gcp:logging/metric:Metric"


@pytest.fixture(scope="module")
def lived(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[list[dict[str, Any]], Topology]]:
    """The lines of a stack that has had trouble of every kind, and its recording."""
    folder = tmp_path_factory.mktemp("metrics")
    with Recorder() as crm:
        config = configuration(folder, [DATABASE, webhook(crm.url)])
        with WholeStack(folder / "state", config) as stack:
            _live(stack, crm)
            lines = list(entries("e2e", stack.logs()))
    yield lines, record(config, state=folder / "state")


def _live(stack: WholeStack, crm: Recorder) -> None:
    i_account = stack.new_account()
    _refused_webhook(stack)
    _account_that_is_no_id(stack)
    _espf_that_is_down_and_one_that_refuses(stack, i_account)
    _failing_system(stack, crm, i_account)
    _dead_letter(stack)
    _paused_handler(stack)


def _refused_webhook(stack: WholeStack) -> None:
    answer = requests.post(stack.description["ingress"]["url"], json={}, timeout=10)
    assert answer.status_code == 401


def _account_that_is_no_id(stack: WholeStack) -> None:
    stack.send("SIM/Updated", i_account="277004/2", i_event=89_000)
    _logged(stack, "rejected: it cannot be read whom it is about")


def _espf_that_is_down_and_one_that_refuses(stack: WholeStack, i_account: int) -> None:
    stack.portabilling_fault("status_api_down", methods=["espf/status"])
    stack.send("Account/Status/Changed", i_account=i_account, i_event=90_001)
    _logged(stack, "ESPF did not take a status")
    stack.well()
    stack.send("Account/Status/Changed", i_account=987_654, i_event=90_002)  # nobody there
    _logged(stack, "ESPF refused a status")


def _logged(stack: WholeStack, words: str) -> None:
    wait_for(lambda: words in "".join(stack.logs().values()), 30, words)


def _failing_system(stack: WholeStack, crm: Recorder, i_account: int) -> None:
    crm.answer = lambda _: 500
    stack.send("Account/Status/Changed", i_account=i_account, i_event=91_000)
    wait_for(lambda: '"message": "retrying"' in stack.logs()["recorder"], 30, "a failed delivery")
    crm.answer = lambda _: 200


def _dead_letter(stack: WholeStack) -> None:
    """A message of the database's subscription after its last attempt; then its last try."""
    described = stack.description
    os.environ["PUBSUB_EMULATOR_HOST"] = described["pubsub"]["host"]
    event = b'{"event_type": "SIM/Updated", "variables": {"i_account": 1, "i_event": 92000}}'
    with PublisherClient() as client:
        message = PubsubMessage(
            data=event,
            attributes={
                "event_id": "00000000-0000-5000-8000-000000000001",
                "received_at": datetime.now(UTC).isoformat(),
                "CloudPubSubDeadLetterSourceSubscription": "e2e-subscribers",
            },
        )
        topic = f"projects/{described['project']}/topics/e2e-dead-letters"
        client.publish(topic=topic, messages=[message])
    store = stack.running.store
    at = store.parked("subscribers.00000000-0000-5000-8000-000000000001")
    wait_for(lambda: store.read(at), 30, "the event to be parked")
    at.update({"last": True, "next_try": datetime.now(UTC) - timedelta(seconds=5)})
    stack.tick()


def _paused_handler(stack: WholeStack) -> None:
    """One that is paused, and one that has been for so long that messages are about to be lost."""
    store = stack.running.store
    for handler in ("subscribers", "recorder"):
        switch.pause(store, handler, "operator@localhost", "a test")
    long_ago = datetime.now(UTC) - timedelta(days=25)
    store.handler("recorder").update({"pause.at": long_ago})
    stack.tick()


def test_every_metric_finds_its_lines_with_all_it_extracts(
    lived: tuple[list[dict[str, Any]], Topology],
) -> None:
    lines, topology = lived
    metrics = _metrics(topology)
    assert len(metrics) >= 11
    for metric in metrics:
        inputs = metric.inputs
        found = [line for line in lines if matches(line, inputs["filter"])]
        assert found, f"{inputs['name']} finds no line: {inputs['filter']}"
        for line in found:
            for label, extractor in inputs.get("labelExtractors", {}).items():
                assert extract(line, extractor) is not None, (inputs["name"], label, line)
            if "valueExtractor" in inputs:
                assert extract(line, inputs["valueExtractor"]) >= 0, (inputs["name"], line)


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("deliveries", "outcome", {"delivered", "retrying"}),
        ("deliveries", "handler", {"subscribers", "recorder"}),
        ("webhooks-refused", "status", {401}),
        ("not-in-service", "state", {"paused"}),
        ("off-too-long", "handler", {"recorder"}),
        ("parked", "handler", {"subscribers"}),
        ("expired", "handler", {"subscribers"}),
    ],
)
def test_what_the_alerts_look_at_is_in_the_labels(
    lived: tuple[list[dict[str, Any]], Topology], name: str, label: str, expected: set[Any]
) -> None:
    lines, topology = lived
    (metric,) = (m for m in _metrics(topology) if m.inputs["name"] == f"e2e-{name}")
    found = [line for line in lines if matches(line, metric.inputs["filter"])]
    values = {extract(line, metric.inputs["labelExtractors"][label]) for line in found}
    assert expected <= values


def test_a_line_of_another_deployment_is_nobodys(
    lived: tuple[list[dict[str, Any]], Topology],
) -> None:
    lines, topology = lived
    for line in lines:
        labels = line["resource"]["labels"]
        other = {**line, "resource": {**line["resource"], "labels": dict(labels)}}
        other["resource"]["labels"]["service_name"] = "e2e-2-subscribers"
        assert not [m for m in _metrics(topology) if matches(other, m.inputs["filter"])]


def _metrics(topology: Topology) -> list[Resource]:
    return [resource for resource in topology.resources if resource.type == METRIC]
