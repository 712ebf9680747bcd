"""What production accepts: names, topics, subscriptions, messages; its limits and defaults.

Sources: the Pub/Sub API reference (google.pubsub.v1), "Quotas and limits", "Subscription
properties". Protobuf messages go in and come out; nothing here keeps state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import types

from nsps_local.grpc_server import Refused
from nsps_local.pubsub import filters
from nsps_local.pubsub.backlog import Policy
from nsps_local.pubsub.identities import Identities

DELETED_TOPIC = "_deleted-topic_"
MAX_REQUEST_BYTES = 10_485_760
MAX_DATA_BYTES = 10_000_000
DAY = 86400

TopicPb = types.Topic.pb()
SubscriptionPb = types.Subscription.pb()
MessagePb = types.PubsubMessage.pb()

_NAME = re.compile(
    r"projects/[^/\s]{1,100}/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
)
_NOT_EMBEDDED_TOPIC = (
    "schema_settings",
    "ingestion_data_source_settings",
    "message_transforms",
)
_NOT_EMBEDDED_SUBSCRIPTION = (
    "enable_message_ordering",
    "enable_exactly_once_delivery",
    "bigquery_config",
    "cloud_storage_config",
    "bigtable_config",
    "message_transforms",
)
_TOPIC_FIELDS = frozenset(
    {"labels", "message_storage_policy", "kms_key_name", "message_retention_duration"}
)
_SUBSCRIPTION_FIELDS = frozenset(
    {
        "push_config",
        "ack_deadline_seconds",
        "retain_acked_messages",
        "message_retention_duration",
        "labels",
        "expiration_policy",
        "dead_letter_policy",
        "retry_policy",
    }
)


def invalid(text: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, text)


def not_found(name: str) -> Refused:
    return Refused(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name}).")


def unimplemented(what: str) -> Refused:
    return Refused(
        grpc.StatusCode.UNIMPLEMENTED,
        f"The embedded Pub/Sub does not do {what}: NSPS does not use it.",
    )


# -- names


def check_name(name: str, kind: str) -> None:
    """`kind` is "topics" or "subscriptions"."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] != kind:
        raise invalid(
            f"Invalid [{kind}] name: (name={name}). It must be projects/PROJECT/{kind}/ID; the ID"
            " has 3 to 255 letters, digits or -._~+%, begins with a letter and not with goog."
        )


# -- topics


def checked_topic(topic: Any) -> Any:
    """The topic as it will be kept, defaults filled in."""
    check_name(topic.name, "topics")
    _refuse_not_embedded(topic, _NOT_EMBEDDED_TOPIC)
    _check_labels(topic.labels)
    if topic.HasField("message_retention_duration"):
        _check_retention(topic.message_retention_duration)
    result = TopicPb()
    result.CopyFrom(topic)
    result.state = types.Topic.State.ACTIVE
    return result


def updated_topic(current: Any, request: Any) -> Any:
    return checked_topic(_merge(current, request.topic, request.update_mask, _TOPIC_FIELDS))


# -- subscriptions


def checked_subscription(
    subscription: Any, known_topics: Iterable[str], identities: Identities
) -> Any:
    """The subscription as it will be kept, defaults filled in.

    `known_topics`: container of topic names; a dead letter topic must be one of them.
    `identities`: the account of its pushes must be one of these.
    """
    _refuse_not_embedded(subscription, _NOT_EMBEDDED_SUBSCRIPTION)
    result = SubscriptionPb()
    result.CopyFrom(subscription)
    _check_labels(result.labels)
    result.ack_deadline_seconds = result.ack_deadline_seconds or 10
    check_deadline(result.ack_deadline_seconds)
    if not result.HasField("message_retention_duration"):
        result.message_retention_duration.FromSeconds(7 * DAY)
    _check_retention(result.message_retention_duration)
    _check_expiration(result)
    _check_filter(result.filter)
    _check_dead_letters(result, known_topics)
    _check_retries(result)
    check_push(result.push_config, identities)
    result.push_config.SetInParent()
    result.state = types.Subscription.State.ACTIVE
    result.ClearField("topic_message_retention_duration")
    return result


def updated_subscription(
    current: Any, request: Any, known_topics: Iterable[str], identities: Identities
) -> Any:
    if request.subscription.filter != current.filter and "filter" in request.update_mask.paths:
        raise invalid("The filter of a subscription cannot be changed. Make a new subscription.")
    merged = _merge(current, request.subscription, request.update_mask, _SUBSCRIPTION_FIELDS)
    return checked_subscription(merged, known_topics, identities)


def policy_of(subscription: Any) -> Policy:
    """What delivery needs of the configuration."""
    retry = subscription.retry_policy
    has_retry = subscription.HasField("retry_policy")
    return Policy(
        ack_deadline=float(subscription.ack_deadline_seconds),
        minimum_backoff=_seconds(retry.minimum_backoff) if has_retry else 0.0,
        maximum_backoff=_seconds(retry.maximum_backoff) if has_retry else 0.0,
        max_attempts=subscription.dead_letter_policy.max_delivery_attempts,
        retention=_seconds(subscription.message_retention_duration),
    )


def expiry_of(subscription: Any) -> float | None:
    """Seconds without activity after which the subscription is deleted; None: never."""
    policy = subscription.expiration_policy
    return _seconds(policy.ttl) if policy.HasField("ttl") else None


def check_deadline(seconds: int) -> None:
    if not 10 <= seconds <= 600:
        raise invalid(
            f"Invalid ack deadline given (seconds={seconds}). It must be from 10 to 600 seconds."
        )


def check_push(push: Any, identities: Identities) -> None:
    if not push.push_endpoint:
        return
    url = urlsplit(push.push_endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username:
        raise invalid(
            f"Invalid push endpoint given (endpoint={push.push_endpoint}). It must be an"
            " http:// or https:// URL with a host and without a user."
        )
    if url.scheme == "http" and not _is_loopback(url.hostname):
        raise invalid(
            f"Invalid push endpoint given (endpoint={push.push_endpoint}). It must be an https://"
            " URL: plain http is for loopback alone, as the service takes none."
        )
    if not push.HasField("oidc_token"):
        return
    account = push.oidc_token.service_account_email
    if "@" not in account:
        raise invalid("push_config.oidc_token needs the service_account_email of an account.")
    if not identities.exists(account):
        raise Refused(
            grpc.StatusCode.NOT_FOUND,
            f"push_config.oidc_token: there is no service account {account}. Make it first.",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


# -- messages


def check_publish(request: Any) -> None:
    """Refuse what a publish may not contain; one bad message refuses them all."""
    if not request.messages:
        raise invalid("The request contains no messages.")
    if len(request.messages) > 1000:
        raise invalid(f"The request has {len(request.messages)} messages; 1000 are allowed.")
    if request.ByteSize() > MAX_REQUEST_BYTES:
        raise invalid(f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
    for message in request.messages:
        _check_message(message)


def _check_message(message: Any) -> None:
    if not message.data and not message.attributes:
        raise invalid(
            "One or more messages in the publish request is empty. Each message must contain"
            " either non-empty data, or at least one attribute."
        )
    if len(message.data) > MAX_DATA_BYTES:
        raise invalid(f"The value for message.data is larger than {MAX_DATA_BYTES} bytes.")
    if len(message.ordering_key.encode()) > 1024:
        raise invalid("The value for ordering_key is longer than 1024 bytes.")
    if len(message.attributes) > 100:
        raise invalid(f"A message has {len(message.attributes)} attributes; 100 are allowed.")
    for key, value in message.attributes.items():
        if not 1 <= len(key.encode()) <= 256 or key.startswith("goog"):
            raise invalid(
                f"Attribute key {key[:40]!r} is refused: 1 to 256 bytes, not beginning with goog."
            )
        if len(value.encode()) > 1024:
            raise invalid(f"The value of attribute {key!r} is longer than 1024 bytes.")


# -- inside


def _merge(current: Any, wanted: Any, mask: Any, fields: frozenset[str]) -> Any:
    if not mask.paths:
        raise invalid("The update_mask must be set, and must contain a non-empty paths list.")
    for path in mask.paths:
        if path.split(".")[0] not in fields or not _is_path(current.DESCRIPTOR, path):
            raise invalid(
                f"Invalid update_mask: {path!r} is not a field that can be updated."
                f" These can: {', '.join(sorted(fields))} (write push_config, not pushConfig)."
            )
    merged = type(current)()
    merged.CopyFrom(current)
    FieldMask(paths=mask.paths).MergeMessage(wanted, merged, True, True)
    return merged


def _is_path(descriptor: Any, path: str) -> bool:
    return bool(FieldMask(paths=[path]).IsValidForDescriptor(descriptor))


def _refuse_not_embedded(resource: Any, fields: tuple[str, ...]) -> None:
    present = {field.name for field, _ in resource.ListFields()}
    for name in fields:
        if name in present:
            raise unimplemented(name)


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _check_labels(labels: Any) -> None:
    if len(labels) > 64:
        raise invalid(f"{len(labels)} labels are given; 64 are allowed.")
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or len(value) > 63:
            raise invalid(f"Label {key!r} is refused: a-z, 0-9, _ and -, at most 63 characters.")


def _check_retention(duration: Any) -> None:
    if not 600 <= _seconds(duration) <= 31 * DAY:
        raise invalid(
            f"Invalid message_retention_duration given ({_seconds(duration):g} s)."
            " It must be from 10 minutes to 31 days."
        )


def _check_expiration(subscription: Any) -> None:
    if not subscription.HasField("expiration_policy"):
        subscription.expiration_policy.ttl.FromSeconds(31 * DAY)
    ttl = expiry_of(subscription)
    if ttl is not None and ttl < DAY:
        raise invalid(f"expiration_policy.ttl is {ttl:g} s; it must be at least one day.")
    if ttl is not None and ttl < _seconds(subscription.message_retention_duration):
        raise invalid("expiration_policy.ttl must not be shorter than the message retention.")


def _check_filter(text: str) -> None:
    try:
        filters.parse(text)
    except filters.FilterError as error:
        raise invalid(f"Invalid filter. {error}") from error


def _check_dead_letters(subscription: Any, known_topics: Iterable[str]) -> None:
    if not subscription.HasField("dead_letter_policy"):
        return
    policy = subscription.dead_letter_policy
    check_name(policy.dead_letter_topic, "topics")
    if policy.dead_letter_topic not in known_topics:
        raise not_found(policy.dead_letter_topic)
    policy.max_delivery_attempts = policy.max_delivery_attempts or 5
    if not 5 <= policy.max_delivery_attempts <= 100:
        raise invalid(
            f"dead_letter_policy.max_delivery_attempts is {policy.max_delivery_attempts};"
            " it must be from 5 to 100."
        )


def _check_retries(subscription: Any) -> None:
    if not subscription.HasField("retry_policy"):
        return
    policy = subscription.retry_policy
    for field, default in (("minimum_backoff", 10), ("maximum_backoff", 600)):
        if not policy.HasField(field):
            getattr(policy, field).CopyFrom(Duration(seconds=default))
        seconds = _seconds(getattr(policy, field))
        if not 0 <= seconds <= 600:
            raise invalid(f"retry_policy.{field} is {seconds:g} s; it must be from 0 to 600.")
    if _seconds(policy.minimum_backoff) > _seconds(policy.maximum_backoff):
        raise invalid("retry_policy.minimum_backoff is longer than maximum_backoff.")
