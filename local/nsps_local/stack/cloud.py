"""The topology brought into the embedded (or Google's) services with the real client libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import grpc
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, NotFound
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)
from google.cloud.secretmanager_v1.types import Replication, Secret, SecretPayload
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.types import (
    DeadLetterPolicy,
    ExpirationPolicy,
    PushConfig,
    RetryPolicy,
    Subscription,
    UpdateSubscriptionRequest,
)

from nsps_local.pubsub.identities import Identities
from nsps_local.recording.topology import Subscription as Recorded
from nsps_local.recording.topology import Topology
from nsps_local.stack.errors import CannotStart

_AUTOMATIC = Secret(replication=Replication(automatic=Replication.Automatic()))


def identities(topology: Topology) -> Identities:
    """The deployment's accounts, and who may call its functions."""
    return Identities(
        accounts=frozenset(topology.accounts),
        invokers={
            function.url: frozenset(
                binding.member
                for binding in topology.bindings
                if (binding.kind, binding.resource) == ("function", function.name)
                and binding.role == "roles/run.invoker"
            )
            for function in topology.functions
        },
    )


def make_pubsub(topology: Topology, target: str, longest_retention: int) -> None:
    """Create, or bring up to date, the topics and subscriptions. What is in them is kept.

    ``longest_retention``: seconds that the service at ``target`` can keep messages. Raises
    CannotStart where the service refuses one of them.
    """
    try:
        _make_pubsub(topology, target, longest_retention)
    except GoogleAPICallError as error:
        raise CannotStart(f"Pub/Sub refuses what the program makes: {error.message}") from None


def _make_pubsub(topology: Topology, target: str, longest_retention: int) -> None:
    os.environ["PUBSUB_EMULATOR_HOST"] = target
    publisher, subscriber = PublisherClient(), SubscriberClient()
    for name in topology.topics:
        topic = f"projects/{topology.project}/topics/{name}"
        try:
            publisher.create_topic(name=topic)
        except AlreadyExists:
            continue
    for recorded in topology.subscriptions:
        wanted = _subscription(topology.project, recorded, longest_retention)
        try:
            found = subscriber.get_subscription(subscription=wanted.name)
        except NotFound:
            subscriber.create_subscription(request=wanted)
            continue
        if found.filter != wanted.filter or found.topic != wanted.topic:
            subscriber.delete_subscription(subscription=wanted.name)  # as Pulumi would: replaced
            subscriber.create_subscription(request=wanted)
            continue
        mask = FieldMask(paths=[*_CHANGEABLE])
        subscriber.update_subscription(
            request=UpdateSubscriptionRequest(subscription=wanted, update_mask=mask)
        )


_CHANGEABLE = ("push_config", "ack_deadline_seconds", "retry_policy", "dead_letter_policy")


def _subscription(project: str, recorded: Recorded, longest_retention: int) -> Subscription:
    token = PushConfig.OidcToken(
        service_account_email=recorded.service_account, audience=recorded.audience
    )
    wanted: dict[str, Any] = {
        "name": f"projects/{project}/subscriptions/{recorded.name}",
        "topic": f"projects/{project}/topics/{recorded.topic}",
        "push_config": PushConfig(push_endpoint=recorded.push_endpoint, oidc_token=token),
        "ack_deadline_seconds": recorded.ack_deadline_seconds,
        "filter": recorded.filter,
        "retry_policy": RetryPolicy(
            minimum_backoff=Duration(seconds=recorded.minimum_backoff_seconds),
            maximum_backoff=Duration(seconds=recorded.maximum_backoff_seconds),
        ),
        "message_retention_duration": Duration(
            seconds=min(recorded.retention_seconds, longest_retention)
        ),
    }
    if recorded.dead_letter_topic is not None:
        wanted["dead_letter_policy"] = DeadLetterPolicy(
            dead_letter_topic=f"projects/{project}/topics/{recorded.dead_letter_topic}",
            max_delivery_attempts=recorded.max_delivery_attempts or 100,
        )
    if not recorded.expires:
        wanted["expiration_policy"] = ExpirationPolicy()
    return Subscription(**wanted)


def put_secrets(project: str, target: str, values: Mapping[str, str]) -> None:
    """Give every secret its value as the newest version, where it has another one."""
    channel = grpc.insecure_channel(target)
    client = secretmanager_v1.SecretManagerServiceClient(
        transport=SecretManagerServiceGrpcTransport(channel=channel)
    )
    with channel:
        for name, value in values.items():
            secret = f"projects/{project}/secrets/{name}"
            try:
                client.create_secret(
                    parent=f"projects/{project}",
                    secret_id=name,
                    secret=_AUTOMATIC,
                )
            except AlreadyExists:
                newest = client.access_secret_version(name=f"{secret}/versions/latest")
                if newest.payload.data == value.encode():
                    continue
            client.add_secret_version(parent=secret, payload=SecretPayload(data=value.encode()))
