"""Numbers out of the functions' log lines: counted by Cloud Logging, for nothing beside the lines.

Each names the logger and the message that the code writes; a test runs the code and holds its
lines against these filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from nsps.domain.outcome import Outcome
from pulumi_gcp import logging

from infra.components.platform import Platform

PREFIX = "logging.googleapis.com/user/"


@dataclass(frozen=True, slots=True)
class LogMetric:
    """Lines of one ``logger``, by their message: one of ``messages``, or what ``begins`` so.

    ``labels``: label to field. ``value``: the field (milliseconds) whose distribution is kept;
    without one the lines are counted.
    """

    name: str
    description: str
    logger: str
    messages: tuple[str, ...] = ()
    begins: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    value: str | None = None

    def filter(self, services: Sequence[str]) -> str:
        """In Cloud Logging's language, for the functions of one deployment and no others."""
        if self.begins:
            message = f'jsonPayload.message=~"^{self.begins}"'
        else:
            message = f"jsonPayload.message={_any_of(self.messages)}"
        clauses = [
            'resource.type="cloud_run_revision"',
            f"resource.labels.service_name={_any_of(services)}",
            f'jsonPayload.logger="{self.logger}"',
            message,
        ]
        return " AND ".join([*clauses, *([f"jsonPayload.{self.value}>=0"] if self.value else [])])


_BY_HANDLER = {"handler": "handler", "outcome": "message"}
METRICS = (
    LogMetric(
        "webhooks",
        "Webhooks that were accepted: published, and answered 200",
        "nsps.flows.ingress",
        messages=("webhook accepted",),
        labels={"event_type": "event_type"},
    ),
    LogMetric(
        "webhooks-refused",
        "Webhooks that were not accepted, by the status that ESPF was answered",
        "nsps.flows.ingress",
        begins="webhook (refused|failed)",
        labels={"status": "status"},
    ),
    LogMetric(
        "reads",
        "How long PortaBilling took to tell what an event means",
        "nsps.flows.enrichment",
        messages=("enriched",),
        value="read_ms",
    ),
    LogMetric(
        "unreadable-owners",
        "Events that were rejected because their account's number, or the like, is no id",
        "nsps.flows.enrichment",
        messages=("rejected: it cannot be read whom it is about",),
    ),
    LogMetric(
        "deliveries",
        "What became of each attempt of a delivery, by handler",
        "nsps.connector.serve",
        messages=tuple(outcome.value for outcome in Outcome),
        labels=_BY_HANDLER,
    ),
    LogMetric(
        "delivery-time",
        "How long the external system took, by handler",
        "nsps.connector.serve",
        messages=(Outcome.DELIVERED.value, Outcome.RETRYING.value, Outcome.REJECTED.value),
        labels=_BY_HANDLER,
        value="ms",
    ),
    LogMetric(
        "since-webhook",
        "From ESPF's webhook to the external system's confirmation, by handler",
        "nsps.connector.serve",
        messages=(Outcome.DELIVERED.value, Outcome.UNCHANGED.value),
        labels=_BY_HANDLER,
        value="since_webhook_ms",
    ),
    LogMetric(
        "not-in-service",
        "A handler that a person paused, or whose breaker is open or half open: one a minute",
        "nsps.flows.maintenance",
        messages=("not in service",),
        labels={"handler": "handler", "state": "state"},
    ),
    LogMetric(
        "off-too-long",
        "A handler that was switched off so long ago that Pub/Sub is about to drop what waits",
        "nsps.flows.maintenance",
        messages=("switched off for too long",),
        labels={"handler": "handler"},
    ),
    LogMetric(
        "parked",
        "Events that used up Pub/Sub's attempts and wait in Firestore, by handler",
        "nsps.flows.retries",
        messages=("parked: all attempts used",),
        labels={"handler": "stage"},
    ),
    LogMetric(
        "expired",
        "Events that were given up after 30 days, by handler",
        "nsps.flows.retries",
        messages=("expired: all tries used",),
        labels={"handler": "stage"},
    ),
    LogMetric(
        "espf-unreachable",
        "Statuses that ESPF did not take now; they are sent again",
        "nsps.espf.poster",
        begins="ESPF did not (answer|take) a status",
    ),
    LogMetric(
        "espf-refused",
        "Statuses that ESPF refuses, mostly of a group that nobody registered",
        "nsps.espf.poster",
        begins="ESPF refused a status",
    ),
)


class LogMetrics(pulumi.ComponentResource):
    """The log-based metrics of one deployment; ``type_of`` is how charts and alerts name one."""

    def __init__(self, platform: Platform, parts: Sequence[str]) -> None:
        super().__init__("nsps:index:LogMetrics", platform.name("log-metrics"))
        self._platform = platform
        services = [platform.name(part) for part in parts]
        self.made = [self._metric(metric, services) for metric in METRICS]
        self.register_outputs({})

    def type_of(self, name: str) -> str:
        return f"{PREFIX}{self._platform.name(name)}"

    def _metric(self, metric: LogMetric, services: Sequence[str]) -> logging.Metric:
        kept = metric.value is not None
        return logging.Metric(
            self._platform.name(f"metric-{metric.name}"),
            project=self._platform.project,
            name=self._platform.name(metric.name),
            description=metric.description,
            filter=metric.filter(services),
            metric_descriptor=logging.MetricMetricDescriptorArgs(
                metric_kind="DELTA",
                value_type="DISTRIBUTION" if kept else "INT64",
                unit="ms" if kept else "1",
                labels=[
                    logging.MetricMetricDescriptorLabelArgs(key=label, value_type="STRING")
                    for label in metric.labels
                ],
            ),
            label_extractors={
                label: f"EXTRACT(jsonPayload.{name})" for label, name in metric.labels.items()
            },
            value_extractor=f"EXTRACT(jsonPayload.{metric.value})" if kept else None,
            # 1 ms to about 18 minutes, each bucket half as wide again
            bucket_options=logging.MetricBucketOptionsArgs(
                exponential_buckets=logging.MetricBucketOptionsExponentialBucketsArgs(
                    num_finite_buckets=34, growth_factor=1.5, scale=1
                )
            )
            if kept
            else None,
            opts=self._platform.below(self),
        )


def _any_of(texts: Sequence[str]) -> str:
    quoted = [f'"{text}"' for text in texts]
    return quoted[0] if len(quoted) == 1 else f"({' OR '.join(quoted)})"
