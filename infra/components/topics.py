"""Pub/Sub topics, and who may publish to them."""

from __future__ import annotations

import pulumi
from pulumi_gcp import pubsub

from infra.components.platform import Platform


class Topic(pulumi.ComponentResource):
    """A topic. ``publishers`` are granted one by one: nobody may publish by default."""

    def __init__(self, platform: Platform, name: str) -> None:
        super().__init__("nsps:index:Topic", platform.name(f"{name}-topic"))
        self._options = platform.below(self)
        self._platform = platform
        self._name = name
        self.topic = pubsub.Topic(
            platform.name(name),
            project=platform.project,
            name=platform.name(name),
            kms_key_name=platform.kms_key,
            # Subscribers' data stays in the region, wherever a publisher's request comes in.
            message_storage_policy=pubsub.TopicMessageStoragePolicyArgs(
                allowed_persistence_regions=[platform.region]
            ),
            labels=platform.labels,
            opts=self._options,
        )
        self.id: pulumi.Output[str] = self.topic.id
        self.register_outputs({})

    def grant_publisher(self, part: str, member: pulumi.Input[str]) -> None:
        """Let a member ("serviceAccount:...") publish here. ``part`` names whose it is."""
        pubsub.TopicIAMMember(
            self._platform.name(f"{part}-publishes-{self._name}"),
            project=self._platform.project,
            topic=self.topic.name,
            role="roles/pubsub.publisher",
            member=member,
            opts=self._options,
        )
