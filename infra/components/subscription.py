"""One push subscription: who is pushed to, under which token, how often, and what comes after."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from nsps.domain.retry import PUSH, Backoff
from pulumi_gcp import pubsub

from infra.components.accounts import PushIdentity
from infra.components.function import Function
from infra.components.platform import Platform
from infra.components.topics import Topic

RETENTION = "2678400s"  # 31 days


@dataclass(frozen=True, slots=True)
class SubscriptionArgs:
    """A subscription and its function. ``filter``: of message attributes; it can never change.

    ``dead_letters``: None for the last stop alone. With a policy a message would leave after 100
    attempts, some 16 h; without one Pub/Sub tries for the 31 days of retention. ``path``: where
    the function takes the push.
    """

    name: str
    topic: Topic
    function: Function
    dead_letters: Topic | None
    filter: str | None = None
    schedule: Backoff = PUSH
    path: str = ""


class Subscription(pulumi.ComponentResource):
    """A subscription that pushes to one function."""

    def __init__(self, platform: Platform, pushes: PushIdentity, args: SubscriptionArgs) -> None:
        super().__init__("nsps:index:Subscription", platform.name(f"{args.name}-subscription"))
        self._platform, self._pushes, self._name = platform, pushes, args.name
        self._options = options = platform.below(self)
        self.subscription = pubsub.Subscription(
            platform.name(args.name),
            project=platform.project,
            name=platform.name(args.name),
            topic=args.topic.id,
            filter=args.filter,
            ack_deadline_seconds=args.function.timeout_seconds,
            message_retention_duration=RETENTION,
            expiration_policy=pubsub.SubscriptionExpirationPolicyArgs(ttl=""),
            retry_policy=pubsub.SubscriptionRetryPolicyArgs(
                minimum_backoff=f"{args.schedule.minimum}s",
                maximum_backoff=f"{args.schedule.maximum}s",
            ),
            dead_letter_policy=_dead_letters(args),
            push_config=pubsub.SubscriptionPushConfigArgs(
                push_endpoint=pulumi.Output.concat(args.function.uri, args.path)
                if args.path
                else args.function.uri,
                oidc_token=pubsub.SubscriptionPushConfigOidcTokenArgs(
                    service_account_email=pushes.account.email, audience=args.function.audience
                ),
            ),
            labels=platform.labels,
            opts=options,
        )
        self.id: pulumi.Output[str] = self.subscription.id
        if args.dead_letters:
            # Pub/Sub takes a message off here itself when it moves it to the dead letters.
            pubsub.SubscriptionIAMMember(
                platform.name(f"{args.name}-forwards"),
                project=platform.project,
                subscription=self.subscription.name,
                role="roles/pubsub.subscriber",
                member=pushes.pubsub_agent,
                opts=options,
            )
        self.register_outputs({})

    def grant_endpoint(self, part: str, member: pulumi.Input[str]) -> None:
        """Let a member change where this subscription pushes."""
        made = pulumi.ResourceOptions(depends_on=[self._pushes.endpoint_role])
        pubsub.SubscriptionIAMMember(
            self._platform.name(f"{part}-turns-{self._name}"),
            project=self._platform.project,
            subscription=self.subscription.name,
            role=self._pushes.endpoint_role_name,
            member=member,
            opts=pulumi.ResourceOptions.merge(self._options, made),
        )


def _dead_letters(args: SubscriptionArgs) -> pubsub.SubscriptionDeadLetterPolicyArgs | None:
    if args.dead_letters is None:
        return None
    return pubsub.SubscriptionDeadLetterPolicyArgs(
        dead_letter_topic=args.dead_letters.id, max_delivery_attempts=args.schedule.attempts
    )
