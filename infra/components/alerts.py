"""What somebody must be told of, and where: alert policies and their notification channels.

A policy's text is what the person who is woken up reads first: what it means, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_gcp import monitoring

from infra.components.log_metrics import LogMetrics
from infra.components.platform import Platform
from infra.stack_keys import Alerts as AlertKeys

REVISION = 'resource.type="cloud_run_revision"'
SUBSCRIPTION = 'resource.type="pubsub_subscription"'
DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Condition:
    """A number above ``above`` for ``seconds``.

    ``metric``: one of ours, or a whole type of Google's. ``also``: further clauses of the filter.
    ``per``: labels by which it is looked at apart. ``of``: the number is the share of these.
    ``absent``: instead, that nothing was measured for ``seconds``.
    """

    metric: str
    above: float = 0
    seconds: int = 0
    window: int = 600
    also: str = ""
    per: tuple[str, ...] = ()
    aligner: str = "ALIGN_DELTA"
    reducer: str = "REDUCE_SUM"
    of: str | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """A policy. All ``conditions`` together raise it. ``what``: its meaning, and what to do."""

    name: str
    title: str
    severity: Literal["CRITICAL", "ERROR", "WARNING"]
    what: str
    conditions: tuple[Condition, ...]


def policies(ingress: str, retries: str, subscriptions: str, old_minutes: int) -> tuple[Alert, ...]:
    """All alerts of a deployment. The arguments: clauses that name its own and nobody else's."""
    handler = ("metric.label.handler", "resource.label.service_name")
    one = ("resource.label.subscription_id",)
    return (
        Alert(
            "old-messages",
            f"Messages wait for more than {old_minutes} minutes",
            "ERROR",
            "The oldest message of a subscription waits. If its handler is paused or its system "
            "is down (see `nsps handlers`, and the dashboard), that is why. Otherwise look at the "
            "function's log: it fails, or it is too slow for what comes in (`nsps:sizes`, "
            "`max_rate`).",
            (
                Condition(
                    "pubsub.googleapis.com/subscription/oldest_unacked_message_age",
                    above=old_minutes * 60,
                    seconds=300,
                    window=60,
                    also=f"{SUBSCRIPTION} AND {subscriptions}",
                    per=one,
                    aligner="ALIGN_MAX",
                    reducer="REDUCE_MAX",
                ),
            ),
        ),
        Alert(
            "dead-letters",
            "Messages used up their attempts",
            "ERROR",
            "Pub/Sub gave up on messages after 100 attempts, some 16 hours. Nothing is lost: they "
            "are parked and sent again for 30 days. `nsps retries` (list) tells which and why; "
            "`nsps replay` sends them at once when the reason is gone.",
            (
                Condition(
                    "pubsub.googleapis.com/subscription/dead_letter_message_count",
                    also=f"{SUBSCRIPTION} AND {subscriptions}",
                    per=one,
                ),
            ),
        ),
        Alert(
            "handler-fails",
            "A handler fails",
            "ERROR",
            "More than half of a handler's attempts fail, and at least ten in ten minutes. "
            "`nsps explain` on one of its events tells how its system answers.",
            (
                Condition(
                    "deliveries",
                    above=0.5,
                    also='metric.label.outcome=one_of("retrying", "rejected")',
                    per=handler,
                    of=REVISION,
                ),
                Condition(
                    "deliveries",
                    above=9,
                    also='metric.label.outcome=one_of("retrying", "rejected")',
                    per=handler,
                ),
            ),
        ),
        Alert(
            "handler-down",
            "A handler's system is down",
            "CRITICAL",
            "The breaker keeps events back and asks the system every 30 s to 10 min how it is; "
            "they go on by themselves when it is well. Nothing is lost for 30 days. Look after "
            "the system.",
            (
                Condition(
                    "not-in-service", above=9, also='metric.label.state="open"', per=handler[:1]
                ),
            ),
        ),
        Alert(
            "off-too-long",
            "A handler has been switched off for 24 days",
            "CRITICAL",
            "It is paused, or its system is down, since so long that Pub/Sub is about to drop what "
            "waits for it (`nsps handlers` says when). Resume it before; or afterwards reconcile "
            "it: `nsps reconcile` brings the system to what PortaBilling has.",
            (Condition("off-too-long", per=handler[:1]),),
        ),
        Alert(
            "ingress-fails",
            "Webhooks are answered 5xx",
            "CRITICAL",
            "ESPF sends them again, so nothing is lost yet. Pub/Sub or Secret Manager cannot be "
            "reached, or the credentials' secret is not readable: see the ingress function's log.",
            (
                Condition(
                    "run.googleapis.com/request_count",
                    above=5,
                    window=300,
                    also=f'{REVISION} AND {ingress} AND metric.label.response_code_class="5xx"',
                ),
            ),
        ),
        Alert(
            "webhooks-lost",
            "Webhooks are refused for ever",
            "CRITICAL",
            "ESPF deletes an event that is answered 4xx. 401: its credentials are not ours; set "
            "`failure_status: 503` until they are, and reconcile the handlers for the time in "
            "between. 400: what came is no webhook of ESPF.",
            (Condition("webhooks-refused", above=4, also='metric.label.status=starts_with("4")'),),
        ),
        Alert(
            "expired",
            "Events were given up",
            "CRITICAL",
            "After 30 days of tries an event was given up, and PortaBilling was told FAILED. "
            "`nsps events` (--outcome expired) shows which; when the reason is gone, `nsps replay` "
            "or `nsps reconcile`.",
            (Condition("expired", per=("metric.label.handler",)),),
        ),
        Alert(
            "unreadable-owners",
            "Events do not say readably whom they are about",
            "CRITICAL",
            "What names the account (or customer, SIM card, number) in a webhook is no id. Nothing "
            "was provisioned, and PortaBilling cannot be told FAILED. `nsps events --outcome "
            "rejected` shows which and what they say: correct what sends them, then `nsps "
            "reconcile` the accounts that were meant.",
            (Condition("unreadable-owners"),),
        ),
        Alert(
            "espf-unreachable",
            "ESPF does not take statuses",
            "ERROR",
            "PortaBilling's status API does not answer. The statuses wait and are sent again each "
            "minute; provisioning goes on. See that PortaBilling's web server is up and takes "
            "calls from our address.",
            (Condition("espf-unreachable", above=9),),
        ),
        Alert(
            "espf-refuses",
            "ESPF refuses statuses",
            "WARNING",
            "Mostly the handler's `group` is not registered in PortaBilling (`nsps doctor` says "
            "which). They are sent again every hour.",
            (Condition("espf-refused", window=3600),),
        ),
        Alert(
            "no-tick",
            "The clock stands still",
            "CRITICAL",
            "The retries function has not been called for ten minutes: parked events, late "
            "answers and breakers wait. Look at the scheduler's job and the function's log.",
            (
                Condition(
                    "run.googleapis.com/request_count",
                    seconds=600,
                    window=60,
                    also=f'{REVISION} AND {retries} AND metric.label.response_code_class="2xx"',
                    absent=True,
                ),
            ),
        ),
    )


class AlertPolicies(pulumi.ComponentResource):
    """The policies, and the channels on which they are told."""

    def __init__(
        self,
        platform: Platform,
        metrics: LogMetrics,
        keys: AlertKeys,
        subscriptions: Sequence[str],
    ) -> None:
        super().__init__("nsps:index:Alerts", platform.name("alerts"))
        self._platform, self._metrics = platform, metrics
        self._options = platform.below(self).merge(
            pulumi.ResourceOptions(depends_on=list(metrics.made))
        )
        self._channels: list[pulumi.Input[str]] = [*keys.channels]
        for number, email in enumerate(keys.emails, 1):
            channel = monitoring.NotificationChannel(
                platform.name(f"mail-{number}"),
                project=platform.project,
                type="email",
                display_name=f"NSPS {platform.deployment}: {email}",
                labels={"email_address": email},
                opts=self._options,
            )
            self._channels.append(channel.id)
        names = ", ".join(f'"{platform.name(each)}"' for each in subscriptions)
        for alert in policies(
            ingress=f'resource.label.service_name="{platform.name("ingress")}"',
            retries=f'resource.label.service_name="{platform.name("retries")}"',
            subscriptions=f"resource.label.subscription_id=one_of({names})",
            old_minutes=keys.old_minutes,
        ):
            self._policy(alert)
        self.register_outputs({})

    def _policy(self, alert: Alert) -> None:
        monitoring.AlertPolicy(
            self._platform.name(f"alert-{alert.name}"),
            project=self._platform.project,
            display_name=f"NSPS {self._platform.deployment}: {alert.title}",
            severity=alert.severity,
            combiner="AND_WITH_MATCHING_RESOURCE" if len(alert.conditions) > 1 else "OR",
            conditions=[
                self._condition(f"{alert.title} ({number})", condition)
                for number, condition in enumerate(alert.conditions, 1)
            ],
            documentation=monitoring.AlertPolicyDocumentationArgs(
                content=alert.what, mime_type="text/markdown"
            ),
            notification_channels=self._channels,
            alert_strategy=monitoring.AlertPolicyAlertStrategyArgs(auto_close=f"{DAY}s"),
            user_labels=self._platform.labels,
            opts=self._options,
        )

    def _condition(self, title: str, condition: Condition) -> monitoring.AlertPolicyConditionArgs:
        where = self._where(condition, condition.also)
        if condition.absent:
            absent = monitoring.AlertPolicyConditionConditionAbsentArgs(
                duration=f"{condition.seconds}s",
                filter=where,
                aggregations=[_absent_aggregation(condition)],
            )
            return monitoring.AlertPolicyConditionArgs(display_name=title, condition_absent=absent)
        threshold = monitoring.AlertPolicyConditionConditionThresholdArgs(
            comparison="COMPARISON_GT",
            threshold_value=condition.above,
            duration=f"{condition.seconds}s",
            filter=where,
            aggregations=[_aggregation(condition)],
            denominator_filter=self._where(condition, condition.of) if condition.of else None,
            denominator_aggregations=[_denominator(condition)] if condition.of else None,
        )
        return monitoring.AlertPolicyConditionArgs(
            display_name=title, condition_threshold=threshold
        )

    def _where(self, condition: Condition, also: str) -> str:
        ours = "/" not in condition.metric
        metric = self._metrics.type_of(condition.metric) if ours else condition.metric
        clauses = [f'metric.type="{metric}"']
        if ours and REVISION not in also:
            clauses.append(REVISION)
        return " AND ".join([*clauses, also] if also else clauses)


def _aggregation(
    condition: Condition,
) -> monitoring.AlertPolicyConditionConditionThresholdAggregationArgs:
    return monitoring.AlertPolicyConditionConditionThresholdAggregationArgs(
        alignment_period=f"{condition.window}s",
        per_series_aligner=condition.aligner,
        cross_series_reducer=condition.reducer,
        group_by_fields=list(condition.per),
    )


def _denominator(
    condition: Condition,
) -> monitoring.AlertPolicyConditionConditionThresholdDenominatorAggregationArgs:
    return monitoring.AlertPolicyConditionConditionThresholdDenominatorAggregationArgs(
        alignment_period=f"{condition.window}s",
        per_series_aligner=condition.aligner,
        cross_series_reducer=condition.reducer,
        group_by_fields=list(condition.per),
    )


def _absent_aggregation(
    condition: Condition,
) -> monitoring.AlertPolicyConditionConditionAbsentAggregationArgs:
    return monitoring.AlertPolicyConditionConditionAbsentAggregationArgs(
        alignment_period=f"{condition.window}s",
        per_series_aligner=condition.aligner,
        cross_series_reducer=condition.reducer,
    )
