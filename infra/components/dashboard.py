"""The page an operator looks at first: what waits, what became of it, how long it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_gcp import monitoring

from infra.components.alerts import REVISION, SUBSCRIPTION
from infra.components.log_metrics import LogMetrics
from infra.components.platform import Platform

_COLUMNS, _WIDTH, _HEIGHT = 48, 16, 14


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart. ``metric``: one of ours, or a whole type of Google's. ``by``: a line for each."""

    title: str
    metric: str
    by: tuple[str, ...]
    aligner: str = "ALIGN_RATE"
    reducer: str = "REDUCE_SUM"
    also: str = ""
    unit: str = "a second"
    plot: str = "LINE"


_HANDLER = ("metric.label.handler",)
_SERVICE = ("resource.label.service_name",)
_QUEUE = ("resource.label.subscription_id",)
CHARTS = (
    Chart("Webhooks accepted", "webhooks", ("metric.label.event_type",), plot="STACKED_BAR"),
    Chart("Webhooks not accepted", "webhooks-refused", ("metric.label.status",)),
    Chart(
        "From webhook to confirmation, 99 of 100",
        "since-webhook",
        _HANDLER,
        "ALIGN_DELTA",
        "REDUCE_PERCENTILE_99",
        unit="ms",
    ),
    Chart(
        "Messages that wait",
        "pubsub.googleapis.com/subscription/num_undelivered_messages",
        _QUEUE,
        "ALIGN_MEAN",
        also=SUBSCRIPTION,
        unit="messages",
    ),
    Chart(
        "Age of the oldest",
        "pubsub.googleapis.com/subscription/oldest_unacked_message_age",
        _QUEUE,
        "ALIGN_MAX",
        "REDUCE_MAX",
        also=SUBSCRIPTION,
        unit="s",
    ),
    Chart(
        "Dead letters",
        "pubsub.googleapis.com/subscription/dead_letter_message_count",
        _QUEUE,
        "ALIGN_DELTA",
        also=SUBSCRIPTION,
        unit="messages",
        plot="STACKED_BAR",
    ),
    Chart(
        "Outcomes, by handler",
        "deliveries",
        (*_HANDLER, "metric.label.outcome"),
        plot="STACKED_BAR",
    ),
    Chart(
        "Failed attempts, by handler",
        "deliveries",
        _HANDLER,
        also='metric.label.outcome=one_of("retrying", "rejected", "expired")',
    ),
    Chart(
        "Time of the external systems, 95 of 100",
        "delivery-time",
        _HANDLER,
        "ALIGN_DELTA",
        "REDUCE_PERCENTILE_95",
        unit="ms",
    ),
    Chart(
        "Handlers not in service (paused, open, half_open)",
        "not-in-service",
        (*_HANDLER, "metric.label.state"),
        "ALIGN_DELTA",
        unit="ticks a minute",
        plot="STACKED_BAR",
    ),
    Chart("Parked", "parked", _HANDLER, "ALIGN_DELTA", unit="events", plot="STACKED_BAR"),
    Chart("Given up", "expired", _HANDLER, "ALIGN_DELTA", unit="events", plot="STACKED_BAR"),
    Chart(
        "PortaBilling's answers, 95 of 100",
        "reads",
        (),
        "ALIGN_DELTA",
        "REDUCE_PERCENTILE_95",
        unit="ms",
    ),
    Chart("Statuses ESPF did not take", "espf-unreachable", (), "ALIGN_DELTA", unit="statuses"),
    Chart(
        "Requests answered 5xx, by function",
        "run.googleapis.com/request_count",
        _SERVICE,
        also=f'{REVISION} AND metric.label.response_code_class="5xx"',
    ),
    Chart(
        "Errors in the log, by function",
        "logging.googleapis.com/log_entry_count",
        _SERVICE,
        also=f'{REVISION} AND metric.label.severity=one_of("ERROR", "CRITICAL")',
    ),
    Chart(
        "Instances, by function",
        "run.googleapis.com/container/instance_count",
        _SERVICE,
        "ALIGN_MAX",
        also=REVISION,
        unit="instances",
    ),
    Chart(
        "Requests, by function",
        "run.googleapis.com/request_count",
        _SERVICE,
        also=REVISION,
    ),
)


class Dashboard(pulumi.ComponentResource):
    """One dashboard for one deployment; ``parts`` are its functions."""

    def __init__(
        self,
        platform: Platform,
        metrics: LogMetrics,
        parts: Sequence[str],
        subscriptions: Sequence[str],
    ) -> None:
        super().__init__("nsps:index:Dashboard", platform.name("dashboard"))
        self._metrics = metrics
        self._functions = _one_of("service_name", [platform.name(part) for part in parts])
        self._queues = _one_of("subscription_id", [platform.name(each) for each in subscriptions])
        layout = {
            "displayName": f"NSPS {platform.deployment}",
            "labels": dict.fromkeys(platform.labels.values(), ""),
            "mosaicLayout": {
                "columns": _COLUMNS,
                "tiles": [self._tile(number, chart) for number, chart in enumerate(CHARTS)],
            },
        }
        monitoring.Dashboard(
            platform.name("dashboard"),
            project=platform.project,
            dashboard_json=json.dumps(layout, sort_keys=True),
            opts=platform.below(self).merge(pulumi.ResourceOptions(depends_on=list(metrics.made))),
        )
        self.register_outputs({})

    def _tile(self, number: int, chart: Chart) -> dict[str, Any]:
        in_a_row = _COLUMNS // _WIDTH
        aggregation = {
            "alignmentPeriod": "60s",
            "perSeriesAligner": chart.aligner,
            "crossSeriesReducer": chart.reducer,
            "groupByFields": list(chart.by),
        }
        series = {
            "timeSeriesQuery": {
                "timeSeriesFilter": {"filter": self._filter(chart), "aggregation": aggregation}
            },
            "plotType": chart.plot,
            "targetAxis": "Y1",
            "minAlignmentPeriod": "60s",
        }
        return {
            "xPos": number % in_a_row * _WIDTH,
            "yPos": number // in_a_row * _HEIGHT,
            "width": _WIDTH,
            "height": _HEIGHT,
            "widget": {
                "title": chart.title,
                "xyChart": {
                    "dataSets": [series],
                    "yAxis": {"label": chart.unit, "scale": "LINEAR"},
                },
            },
        }

    def _filter(self, chart: Chart) -> str:
        if "/" not in chart.metric:
            clauses = [f'metric.type="{self._metrics.type_of(chart.metric)}"', REVISION]
        else:
            whose = self._queues if SUBSCRIPTION in chart.also else self._functions
            clauses = [f'metric.type="{chart.metric}"', whose]
        return " AND ".join([*clauses, chart.also] if chart.also else clauses)


def _one_of(label: str, names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"resource.label.{label}=one_of({quoted})"
