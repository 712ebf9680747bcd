"""What a deployment consists of, as typed data, read out of the recorded Pulumi resources.

Names are the deployed ones (``local-ingress``); ``part`` is the name inside the deployment
(``ingress``, or a handler's). Durations are whole seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_FUNCTION = "gcp:cloudfunctionsv2/function:Function"
_TOPIC = "gcp:pubsub/topic:Topic"
_SUBSCRIPTION = "gcp:pubsub/subscription:Subscription"
_ACCOUNT = "gcp:serviceaccount/account:Account"
_JOB = "gcp:cloudscheduler/job:Job"
_DATABASE = "gcp:firestore/database:Database"
_INDEX = "gcp:firestore/index:Index"
_FIELD = "gcp:firestore/field:Field"
_EXCLUSION = "gcp:logging/projectExclusion:ProjectExclusion"
_REQUEST_LOG = "/logs/run.googleapis.com%2Frequests"

# A binding's type -> the input that names what is granted.
_BINDINGS = {
    "gcp:cloudrunv2/serviceIamMember:ServiceIamMember": ("function", "name"),
    "gcp:pubsub/topicIAMMember:TopicIAMMember": ("topic", "topic"),
    "gcp:pubsub/subscriptionIAMMember:SubscriptionIAMMember": ("subscription", "subscription"),
    "gcp:secretmanager/secretIamMember:SecretIamMember": ("secret", "secretId"),
    "gcp:serviceaccount/iAMMember:IAMMember": ("account", "serviceAccountId"),
    "gcp:projects/iAMMember:IAMMember": ("project", "project"),
    "gcp:storage/bucketIAMMember:BucketIAMMember": ("bucket", "bucket"),
    "gcp:iap/webBackendServiceIamMember:WebBackendServiceIamMember": (
        "proxy",
        "webBackendService",
    ),
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": ("key", "cryptoKeyId"),
}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the Pulumi program as it was registered, under the wire's names.

    ``inputs``: what the program wrote; ``outputs``: what the recording answered beyond that.
    """

    type: str
    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Function:
    """A function. ``source``: its folder in the repository; ``secrets``: names it may read.

    ``port`` and ``url`` are where the local stack must serve it; ``env`` is whole. ``behind_nat``:
    it calls out through the deployment's network; ``internal``: the internet does not reach it.
    """

    name: str
    part: str
    source: str
    entry_point: str
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    port: int
    url: str
    public: bool
    service_account: str
    threads: int
    concurrency: int
    memory: str
    timeout_seconds: int
    min_instances: int
    max_instances: int
    behind_nat: bool = False
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """A push subscription. ``topic`` and ``dead_letter_topic`` are bare names."""

    name: str
    part: str
    topic: str
    push_endpoint: str
    audience: str
    service_account: str
    filter: str
    ack_deadline_seconds: int
    minimum_backoff_seconds: int
    maximum_backoff_seconds: int
    dead_letter_topic: str | None
    max_delivery_attempts: int | None
    retention_seconds: int
    expires: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A scheduled call of a function."""

    name: str
    schedule: str
    time_zone: str
    url: str
    method: str
    audience: str
    service_account: str


@dataclass(frozen=True, slots=True)
class IndexField:
    field: str
    descending: bool
    contains: bool = False


@dataclass(frozen=True, slots=True)
class CompositeIndex:
    """An index over several fields. ``group``: over all collections of that name."""

    collection: str
    group: bool
    fields: tuple[IndexField, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of all collections of that name.

    ``Database.expiring``: documents go away when the time in it has passed. ``unindexed``: no
    query may look at it.
    """

    collection: str
    field: str


@dataclass(frozen=True, slots=True)
class Database:
    name: str
    indexes: tuple[CompositeIndex, ...]
    expiring: tuple[Field, ...]
    unindexed: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """A right.

    ``kind``: function, topic, subscription, secret, account, bucket, key, proxy or project.
    """

    kind: str
    resource: str
    role: str
    member: str
    condition: str | None


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole deployment. ``secrets``: those that any function may read; ``accounts``: the service
    accounts that it makes, as emails.

    ``notes``: what is allowed in its configuration but worth saying.
    """

    project: str
    region: str
    deployment: str
    functions: tuple[Function, ...]
    topics: tuple[str, ...]
    subscriptions: tuple[Subscription, ...]
    jobs: tuple[Job, ...]
    secrets: tuple[str, ...]
    database: Database
    bindings: tuple[Binding, ...]
    accounts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    resources: tuple[Resource, ...] = field(default=(), repr=False)

    def keeps_request_lines(self, function: Function) -> bool:
        """Whether Cloud Run's own line for a well answered request of the function is kept."""
        return not any(
            f'"{function.name}"' in resource.inputs["filter"]
            and _REQUEST_LOG in resource.inputs["filter"]
            and not resource.inputs.get("disabled")
            for resource in self.resources
            if resource.type == _EXCLUSION
        )

    def function(self, part: str) -> Function:
        """The function of that part. Raises KeyError."""
        return _by(self.functions, "part", part)

    def subscription(self, part: str) -> Subscription:
        """The subscription of that part (``hss``, ``dead-letters``). Raises KeyError."""
        return _by(self.subscriptions, "part", part)


class IncompleteRecording(ValueError):
    """The program made something that the local stack cannot be made from."""


def read_topology(resources: Sequence[Resource], notes: Sequence[str]) -> Topology:
    """The topology that the resources make up. Raises IncompleteRecording."""
    by_type: dict[str, list[Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource.type, []).append(resource)
    bindings = tuple(_binding(r) for r in resources if r.type in _BINDINGS)
    databases = by_type.get(_DATABASE, [])
    functions = [_function(r, bindings) for r in by_type.get(_FUNCTION, [])]
    if len(databases) != 1 or not functions:
        raise IncompleteRecording(
            f"the program made {len(databases)} databases and {len(functions)} functions: "
            "a deployment has one database, and functions"
        )
    deployment = functions[0].env["NSPS_DEPLOYMENT"]
    return Topology(
        project=databases[0].inputs["project"],
        region=databases[0].inputs["locationId"],
        deployment=deployment,
        functions=tuple(sorted(functions, key=lambda function: function.port)),
        topics=tuple(sorted(r.inputs["name"] for r in by_type.get(_TOPIC, []))),
        subscriptions=tuple(
            sorted(
                (_subscription(r, deployment) for r in by_type.get(_SUBSCRIPTION, [])),
                key=lambda subscription: subscription.name,
            )
        ),
        jobs=tuple(map(_job, by_type.get(_JOB, []))),
        secrets=tuple(sorted({b.resource for b in bindings if b.kind == "secret"})),
        database=_database(databases[0], by_type),
        bindings=tuple(sorted(bindings, key=lambda b: (b.kind, b.resource, b.role, b.member))),
        accounts=tuple(sorted(r.outputs["email"] for r in by_type.get(_ACCOUNT, []))),
        notes=tuple(notes),
        resources=tuple(resources),
    )


def _function(resource: Resource, bindings: Sequence[Binding]) -> Function:
    inputs = resource.inputs
    build, service = inputs["buildConfig"], inputs["serviceConfig"]
    account = service["serviceAccountEmail"]
    env = service["environmentVariables"]
    url = resource.outputs["url"]
    return Function(
        name=inputs["name"],
        part=env["NSPS_FUNCTION"],
        source=build["source"]["storageSource"]["object"].rpartition("/")[0],
        entry_point=build["entryPoint"],
        env=dict(sorted(env.items())),
        secrets=tuple(
            sorted(
                binding.resource
                for binding in bindings
                if binding.kind == "secret" and binding.member == f"serviceAccount:{account}"
            )
        ),
        port=int(url.rpartition(":")[2]),
        url=url,
        public=any(
            binding.member == "allUsers"
            for binding in bindings
            if binding.kind == "function" and binding.resource == inputs["name"]
        ),
        service_account=account,
        threads=int(env["THREADS"]),
        concurrency=int(service["maxInstanceRequestConcurrency"]),
        memory=service["availableMemory"],
        timeout_seconds=int(service["timeoutSeconds"]),
        min_instances=int(service["minInstanceCount"]),
        max_instances=int(service["maxInstanceCount"]),
        behind_nat=bool(service.get("directVpcNetworkInterfaces")),
        internal=service["ingressSettings"] == "ALLOW_INTERNAL_ONLY",
    )


def _subscription(resource: Resource, deployment: str) -> Subscription:
    inputs = resource.inputs
    push = inputs["pushConfig"]
    retry = inputs["retryPolicy"]
    dead = inputs.get("deadLetterPolicy")
    return Subscription(
        name=inputs["name"],
        part=inputs["name"].removeprefix(f"{deployment}-"),
        topic=_last(inputs["topic"]),
        push_endpoint=push["pushEndpoint"],
        audience=push["oidcToken"]["audience"],
        service_account=push["oidcToken"]["serviceAccountEmail"],
        filter=inputs.get("filter") or "",
        ack_deadline_seconds=int(inputs["ackDeadlineSeconds"]),
        minimum_backoff_seconds=_seconds(retry["minimumBackoff"]),
        maximum_backoff_seconds=_seconds(retry["maximumBackoff"]),
        dead_letter_topic=_last(dead["deadLetterTopic"]) if dead else None,
        max_delivery_attempts=int(dead["maxDeliveryAttempts"]) if dead else None,
        retention_seconds=_seconds(inputs["messageRetentionDuration"]),
        expires=inputs["expirationPolicy"]["ttl"] != "",
    )


def _job(resource: Resource) -> Job:
    target = resource.inputs["httpTarget"]
    return Job(
        name=resource.inputs["name"],
        schedule=resource.inputs["schedule"],
        time_zone=resource.inputs["timeZone"],
        url=target["uri"],
        method=target["httpMethod"],
        audience=target["oidcToken"]["audience"],
        service_account=target["oidcToken"]["serviceAccountEmail"],
    )


def _database(resource: Resource, by_type: Mapping[str, Sequence[Resource]]) -> Database:
    indexes = [
        CompositeIndex(
            collection=index.inputs["collection"],
            group=index.inputs["queryScope"] == "COLLECTION_GROUP",
            fields=tuple(
                IndexField(
                    part["fieldPath"],
                    part.get("order") == "DESCENDING",
                    part.get("arrayConfig") == "CONTAINS",
                )
                for part in index.inputs["fields"]
            ),
        )
        for index in by_type.get(_INDEX, [])
    ]
    fields = [
        (Field(entry.inputs["collection"], entry.inputs["field"]), entry.inputs)
        for entry in by_type.get(_FIELD, [])
    ]
    return Database(
        name=resource.inputs["name"],
        indexes=tuple(sorted(indexes, key=repr)),
        expiring=tuple(f for f, inputs in fields if inputs.get("ttlConfig") is not None),
        unindexed=tuple(f for f, inputs in fields if inputs.get("indexConfig") == {}),
    )


def _binding(resource: Resource) -> Binding:
    kind, key = _BINDINGS[resource.type]
    inputs = resource.inputs
    condition = inputs.get("condition")
    return Binding(
        kind=kind,
        resource=_last(inputs[key]),
        role=inputs["role"],
        member=inputs["member"],
        condition=condition["expression"] if condition else None,
    )


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _seconds(duration: str) -> int:
    if not re.fullmatch(r"\d+s", duration):
        raise IncompleteRecording(f"{duration!r} is not a duration: write whole seconds, like 10s")
    return int(duration[:-1])


def _by(entries: Sequence[T], attribute: str, value: str) -> T:
    for entry in entries:
        if getattr(entry, attribute) == value:
            return entry
    known = ", ".join(str(getattr(entry, attribute)) for entry in entries)
    raise KeyError(f"nothing is called {value!r}; there are {known}")
