"""Service accounts: one for each function, so that none can do what another may."""

from __future__ import annotations

import hashlib

import pulumi
from pulumi_gcp import projects, serviceaccount

from infra.components.platform import Platform

_LONGEST = 30


def account_id(name: str) -> str:
    """The account's id for a name: at most 30 characters, never the same for two names."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def account_email(platform: Platform, part: str) -> str:
    """The address that a part's account will have: known before the account is made."""
    return f"{account_id(platform.name(part))}@{platform.project}.iam.gserviceaccount.com"


def account(
    platform: Platform, part: str, purpose: str, parent: pulumi.Resource
) -> serviceaccount.Account:
    """A service account of this deployment."""
    name = platform.name(part)
    return serviceaccount.Account(
        name,
        project=platform.project,
        account_id=account_id(name),
        display_name=f"NSPS {name}",
        description=purpose,
        opts=platform.below(parent),
    )


class PushIdentity(pulumi.ComponentResource):
    """Who calls the functions that are not public: the account in every push and tick token.

    Pub/Sub's own service agent may make tokens in its name, and nobody else; it is also the one
    that moves messages to the dead letters. ``endpoint_role``: a role of the deployment's own, to
    change where a subscription pushes: Google's narrowest may also read and delete it.
    """

    def __init__(self, platform: Platform) -> None:
        super().__init__("nsps:index:PushIdentity", platform.name("invoker"))
        options = platform.below(self)
        self.account = account(
            platform, "invoker", "Pushes messages and ticks to the functions", self
        )
        agent = projects.ServiceIdentity(
            platform.name("pubsub-agent"),
            project=platform.project,
            service="pubsub.googleapis.com",
            opts=options,
        )
        self.pubsub_agent: pulumi.Output[str] = pulumi.Output.concat("serviceAccount:", agent.email)
        serviceaccount.IAMMember(
            platform.name("invoker-tokens"),
            service_account_id=self.account.name,
            role="roles/iam.serviceAccountTokenCreator",
            member=self.pubsub_agent,
            opts=options,
        )
        role_id = f"{platform.deployment}_push_endpoint"
        self.endpoint_role = projects.IAMCustomRole(
            platform.name("push-endpoint"),
            project=platform.project,
            role_id=role_id,
            title=f"NSPS {platform.deployment}: push endpoints",
            description="See a subscription, and change where it pushes",
            permissions=["pubsub.subscriptions.get", "pubsub.subscriptions.update"],
            opts=options,
        )
        self.endpoint_role_name = f"projects/{platform.project}/roles/{role_id}"
        self._platform, self._options = platform, options
        self.register_outputs({})

    def grant_use(self, part: str, member: pulumi.Input[str]) -> None:
        """Let a member say that pushes go out in this identity; it gets no tokens of it."""
        serviceaccount.IAMMember(
            self._platform.name(f"{part}-uses-invoker"),
            service_account_id=self.account.name,
            role="roles/iam.serviceAccountUser",
            member=member,
            opts=self._options,
        )
