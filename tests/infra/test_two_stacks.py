"""Two deployments in one project: nothing of one has the name of anything of the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps_local.recording import Resource, Topology

from infra.components.accounts import account_id
from infra.components.platform import Platform
from tests.infra.conftest import base, record_values

KEY = "projects/keys/locations/europe-west3/keyRings/nsps/cryptoKeys/data"

SHARED = {
    "gcp:projects/service:Service": "an API is on or off for the whole project; teardown leaves it",
    "gcp:projects/serviceIdentity:ServiceIdentity": "Google's own account of a service",
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": "the same account, key and right; teardown "
    "leaves it",
}
"""What two deployments have in common, and why one may be torn down without harm to the other."""

NAMES: dict[str, tuple[str, ...]] = {
    "gcp:cloudfunctionsv2/function:Function": ("name",),
    "gcp:cloudrunv2/serviceIamMember:ServiceIamMember": ("name", "role", "member"),
    "gcp:cloudscheduler/job:Job": ("name",),
    "gcp:compute/address:Address": ("name",),
    "gcp:compute/backendService:BackendService": ("name",),
    "gcp:compute/globalAddress:GlobalAddress": ("name",),
    "gcp:compute/globalForwardingRule:GlobalForwardingRule": ("name",),
    "gcp:compute/managedSslCertificate:ManagedSslCertificate": ("name",),
    "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup": ("name",),
    "gcp:compute/targetHttpsProxy:TargetHttpsProxy": ("name",),
    "gcp:compute/uRLMap:URLMap": ("name",),
    "gcp:iap/webBackendServiceIamMember:WebBackendServiceIamMember": (
        "webBackendService",
        "role",
        "member",
    ),
    "gcp:compute/network:Network": ("name",),
    "gcp:compute/router:Router": ("name",),
    "gcp:compute/routerNat:RouterNat": ("router", "name"),
    "gcp:compute/subnetwork:Subnetwork": ("name",),
    "gcp:firestore/backupSchedule:BackupSchedule": ("database",),
    "gcp:firestore/database:Database": ("name",),
    "gcp:firestore/field:Field": ("database", "collection", "field"),
    "gcp:firestore/index:Index": ("database", "collection", "queryScope", "fields"),
    "gcp:logging/metric:Metric": ("name",),
    "gcp:logging/projectExclusion:ProjectExclusion": ("name",),
    "gcp:monitoring/alertPolicy:AlertPolicy": ("displayName",),
    "gcp:monitoring/dashboard:Dashboard": ("dashboardJson",),
    "gcp:monitoring/notificationChannel:NotificationChannel": ("displayName",),
    "gcp:projects/iAMCustomRole:IAMCustomRole": ("roleId",),
    "gcp:projects/iAMMember:IAMMember": ("role", "member"),
    "gcp:pubsub/subscription:Subscription": ("name",),
    "gcp:pubsub/subscriptionIAMMember:SubscriptionIAMMember": ("subscription", "role", "member"),
    "gcp:pubsub/topic:Topic": ("name",),
    "gcp:pubsub/topicIAMMember:TopicIAMMember": ("topic", "role", "member"),
    "gcp:secretmanager/secret:Secret": ("secretId",),
    "gcp:secretmanager/secretIamMember:SecretIamMember": ("secretId", "role", "member"),
    "gcp:serviceaccount/account:Account": ("accountId",),
    "gcp:serviceaccount/iAMMember:IAMMember": ("serviceAccountId", "role", "member"),
    "gcp:storage/bucket:Bucket": ("name",),
    "gcp:storage/bucketObject:BucketObject": ("bucket", "name"),
}
"""By which of its inputs Google (or a person, where Google makes up an id) knows a resource."""


def cloud_names(resources: Iterable[Resource]) -> list[str]:
    return [
        json.dumps([resource.type, *(resource.inputs[key] for key in NAMES[resource.type])])
        for resource in resources
        if resource.type not in SHARED
    ]


@pytest.fixture(scope="module")
def record_as(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Topology]:
    def record(deployment: str, **more: Any) -> Topology:
        console = base()["nsps:console"] | {"domain": f"{deployment}.acme.example"}
        own = {"nsps:deployment": deployment, "nsps:kms_key": KEY, "nsps:console": console}
        return record_values(base() | own | more, tmp_path_factory.mktemp(deployment), program)

    return record


def test_two_deployments_of_the_same_configuration_share_no_name(
    record_as: Callable[..., Topology],
) -> None:
    one, other = (cloud_names(record_as(name).resources) for name in ("acme", "acmetest"))
    assert len(set(one)) == len(one) == len(other) > 100
    assert set(one).isdisjoint(other)


def test_what_they_have_in_common_stays_when_one_goes(acme: Topology) -> None:
    services = [r for r in acme.resources if r.type == "gcp:projects/service:Service"]
    assert services
    assert all(service.inputs["disableOnDestroy"] is False for service in services)


def test_both_may_read_a_secret_that_is_there_already_and_neither_makes_it(
    record_as: Callable[..., Topology],
) -> None:
    portabilling = {"url": "https://pb.acme.example", "credentials": "existing:pb-api"}
    for name in ("acme", "acmetest"):
        topology = record_as(name, **{"nsps:portabilling": portabilling})
        made = {
            r.inputs["secretId"]
            for r in topology.resources
            if r.type == "gcp:secretmanager/secret:Secret"
        }
        assert "pb-api" not in made
        assert all(secret.startswith(f"{name}-") for secret in made)
        assert "pb-api" in topology.function("enrichment").secrets


_deployments = st.from_regex(r"[a-z][a-z0-9]{2,15}", fullmatch=True)
_context = st.from_regex(r"[a-z][a-z0-9-]{0,29}[a-z0-9]", fullmatch=True)


@given(st.lists(st.tuples(_deployments, _context), min_size=2, max_size=2, unique=True))
def test_no_two_parts_of_any_deployments_get_one_name(pairs: list[tuple[str, str]]) -> None:
    one, other = (Platform("p", "r", deployment).name(part) for deployment, part in pairs)
    assert one != other
    assert account_id(one) != account_id(other)


def test_a_name_that_only_a_dash_would_keep_apart() -> None:
    """acme with a handler test-hss, and acme-test with hss: so a deployment's name has no dash."""
    assert Platform("p", "r", "acme").name("test-hss") == "acme-test-hss"
    assert Platform("p", "r", "acmetest").name("hss") != "acme-test-hss"
