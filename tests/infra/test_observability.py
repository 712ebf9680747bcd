"""What is watched, and who is told: every chart and alert reads a number that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from nsps_local.recording import Resource, Topology

from infra.components.log_metrics import METRICS, PREFIX
from tests.infra.conftest import base, record_values

METRIC, ALERT = "gcp:logging/metric:Metric", "gcp:monitoring/alertPolicy:AlertPolicy"
GOOGLES = {
    "pubsub.googleapis.com/subscription/num_undelivered_messages": "pubsub_subscription",
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age": "pubsub_subscription",
    "pubsub.googleapis.com/subscription/dead_letter_message_count": "pubsub_subscription",
    "run.googleapis.com/request_count": "cloud_run_revision",
    "run.googleapis.com/container/instance_count": "cloud_run_revision",
    "logging.googleapis.com/log_entry_count": "cloud_run_revision",
}
"""Numbers that Google keeps by itself, and of what."""


def of_type(topology: Topology, kind: str) -> list[Resource]:
    return [resource for resource in topology.resources if resource.type == kind]


def conditions(topology: Topology) -> list[tuple[str, dict[str, Any]]]:
    return [
        (alert.inputs["displayName"], inner)
        for alert in of_type(topology, ALERT)
        for condition in alert.inputs["conditions"]
        for kind, inner in condition.items()
        if kind.startswith("condition")
    ]


def filters(topology: Topology) -> list[str]:
    """The filters of all charts and alerts."""
    (dashboard,) = of_type(topology, "gcp:monitoring/dashboard:Dashboard")
    tiles = json.loads(dashboard.inputs["dashboardJson"])["mosaicLayout"]["tiles"]
    charts = [
        series["timeSeriesQuery"]["timeSeriesFilter"]["filter"]
        for tile in tiles
        for series in tile["widget"]["xyChart"]["dataSets"]
    ]
    of_alerts = [
        c[key] for _, c in conditions(topology) for key in c if key.lower().endswith("filter")
    ]
    return charts + of_alerts


def test_every_chart_and_alert_reads_a_number_that_there_is(acme: Topology) -> None:
    ours = {f"{PREFIX}{metric.inputs['name']}" for metric in of_type(acme, METRIC)}
    assert ours == {f"{PREFIX}acme-{metric.name}" for metric in METRICS}
    read = set()
    for text in filters(acme):
        (kind,) = re.findall(r'metric\.type="([^"]+)"', text)
        (resource,) = re.findall(r'resource\.type="([^"]+)"', text)
        assert GOOGLES.get(kind, "cloud_run_revision") == resource, text
        read.add(kind)
    assert read <= ours | set(GOOGLES)
    assert ours <= read, "a metric that nobody looks at"


def test_a_filter_speaks_of_labels_that_its_metric_has(acme: Topology) -> None:
    labels = {f"{PREFIX}acme-{metric.name}": set(metric.labels) for metric in METRICS}
    googles = {"response_code_class", "severity"}
    for text in filters(acme):
        (kind,) = re.findall(r'metric\.type="([^"]+)"', text)
        assert set(re.findall(r"metric\.label\.([a-z_]+)", text)) <= labels.get(kind, googles)


def test_nothing_is_read_of_another_deployment(acme: Topology) -> None:
    functions = {f.name for f in acme.functions}
    queues = {s.name for s in acme.subscriptions}
    for text in filters(acme):
        if f'"{PREFIX}' in text:
            continue
        named = re.findall(r"resource\.label\.\w+=(?:one_of\()?([^)=]*?)\)?(?: AND|$)", text)
        assert named, text
        assert {name.strip(' "') for name in named[0].split(",")} <= functions | queues, text
    for metric in of_type(acme, METRIC):
        (named_services,) = re.findall(r"service_name=\((.*?)\)", metric.inputs["filter"])
        assert set(re.findall(r'"([^"]+)"', named_services)) == functions


def test_who_is_told_of_what(acme: Topology) -> None:
    alerts = {a.inputs["displayName"].removeprefix("NSPS acme: "): a for a in of_type(acme, ALERT)}
    assert {title: alert.inputs["severity"] for title, alert in alerts.items()} == {
        "Messages wait for more than 15 minutes": "ERROR",
        "Messages used up their attempts": "ERROR",
        "A handler fails": "ERROR",
        "A handler's system is down": "CRITICAL",
        "A handler has been switched off for 24 days": "CRITICAL",
        "Webhooks are answered 5xx": "CRITICAL",
        "Webhooks are refused for ever": "CRITICAL",
        "Events were given up": "CRITICAL",
        "Events do not say readably whom they are about": "CRITICAL",
        "ESPF does not take statuses": "ERROR",
        "ESPF refuses statuses": "WARNING",
        "The clock stands still": "CRITICAL",
    }
    (mail,) = of_type(acme, "gcp:monitoring/notificationChannel:NotificationChannel")
    assert mail.inputs["labels"] == {"email_address": "noc@acme.example"}
    for alert in alerts.values():
        assert alert.inputs["notificationChannels"] == [
            "projects/acme-provisioning/notificationChannels/77",
            mail.name,
        ]
        assert len(alert.inputs["documentation"]["content"]) > 100


def test_the_commands_that_an_alert_names_are_there(acme: Topology) -> None:
    import argparse

    from nsps_local import cli

    known: set[str] = set()
    real = argparse._SubParsersAction.add_parser

    def noted(self: Any, name: str, **more: Any) -> Any:
        known.add(name)
        return real(self, name, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse._SubParsersAction, "add_parser", noted)
        with pytest.raises(SystemExit):
            cli.main(["--help"])
    text = " ".join(alert.inputs["documentation"]["content"] for alert in of_type(acme, ALERT))
    assert set(re.findall(r"`nsps ([a-z-]+)`", text)) <= known


def test_a_dashboards_tiles_do_not_overlap(acme: Topology) -> None:
    (dashboard,) = of_type(acme, "gcp:monitoring/dashboard:Dashboard")
    layout = json.loads(dashboard.inputs["dashboardJson"])["mosaicLayout"]
    taken: set[tuple[int, int]] = set()
    for tile in layout["tiles"]:
        cells = {
            (x, y)
            for x in range(tile["xPos"], tile["xPos"] + tile["width"])
            for y in range(tile["yPos"], tile["yPos"] + tile["height"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < layout["columns"]
        taken |= cells


def test_the_customers_key_encrypts_messages_database_and_secrets(
    program: Path, tmp_path: Path
) -> None:
    key = "projects/keys/locations/europe-west3/keyRings/nsps/cryptoKeys/data"
    keyed = record_values(
        base() | {"nsps:kms_key": key, "nsps:static_egress": False}, tmp_path, program
    )
    for topic in of_type(keyed, "gcp:pubsub/topic:Topic"):
        assert topic.inputs["kmsKeyName"] == key
    (database,) = of_type(keyed, "gcp:firestore/database:Database")
    assert database.inputs["cmekConfig"] == {"kmsKeyName": key}
    for secret in of_type(keyed, "gcp:secretmanager/secret:Secret"):
        (replica,) = secret.inputs["replication"]["userManaged"]["replicas"]
        assert replica == {
            "location": "europe-west3",
            "customerManagedEncryption": {"kmsKeyName": key},
        }
    users = {b.member for b in keyed.bindings if b.kind == "key"}
    assert users == {
        f"serviceAccount:service-0@gcp-sa-{service}.iam.gserviceaccount.com"
        for service in ("pubsub", "firestore", "secretmanager")
    }


def test_a_request_that_went_well_is_told_of_once(acme: Topology) -> None:
    """Cloud Run's own line for it is not kept, but for the console's, where people come in."""
    (exclusion,) = of_type(acme, "gcp:logging/projectExclusion:ProjectExclusion")
    assert exclusion.inputs["filter"].endswith("httpRequest.status<400")
    assert (
        '"projects/acme-provisioning/logs/run.googleapis.com%2Frequests"'
        in (exclusion.inputs["filter"])
    )
    kept = {f.part for f in acme.functions if acme.keeps_request_lines(f)}
    assert kept == {"console"}
