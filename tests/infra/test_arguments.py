"""Every recorded resource fits pulumi-gcp's argument classes; planted mistakes do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from nsps_local.recording import Resource, Topology

from tests.infra.arguments import faults

pytestmark = pytest.mark.filterwarnings("ignore:gcp:DeprecationWarning")


def test_every_resource_fits_its_argument_class(acme: Topology) -> None:
    assert len(acme.resources) > 100
    assert [fault for resource in acme.resources for fault in faults(resource)] == []


PLANTED: list[tuple[str, tuple[str, ...], Any, str]] = [
    ("pubsub/subscription:Subscription", ("ackDeadlineSeconds",), "soon", "ackDeadlineSeconds: "),
    ("pubsub/subscription:Subscription", ("pushConfig", "pushEndpoin"), "x", "pushEndpoin: unkn"),
    ("pubsub/subscription:Subscription", ("pushConfig", "pushEndpoint"), None, "oint: missing"),
    ("pubsub/subscription:Subscription", ("retryPolicy", "minimumBackoff"), 3, "Backoff: 3 is not"),
    ("pubsub/subscription:Subscription", ("topic",), None, ".topic: missing"),
    ("pubsub/subscription:Subscription", ("labels",), {"a": 1}, "labels[a]: 1 is not str"),
    ("cloudfunctionsv2/function:Function", ("serviceConfig", "cpu"), "1", "Config.cpu: unknown"),
    ("cloudfunctionsv2/function:Function", ("location",), None, ".location: missing"),
    (
        "cloudfunctionsv2/function:Function",
        ("serviceConfig", "allTrafficOnLatestRevision"),
        "yes",
        "'yes' is not bool",
    ),
    ("firestore/database:Database", ("locationId",), ["eu"], "is not str"),
    ("compute/routerNat:RouterNat", ("natIps",), "192.0.2.1", "is not a list"),
    ("projects/iAMMember:IAMMember", ("role",), None, ".role: missing"),
]


@pytest.mark.parametrize(("token", "path", "value", "expected"), PLANTED)
def test_a_planted_mistake_is_caught(
    acme: Topology, token: str, path: tuple[str, ...], value: Any, expected: str
) -> None:
    good = next(r for r in acme.resources if r.type == f"gcp:{token}")
    inputs = copy.deepcopy(dict(good.inputs))
    place = inputs
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    found = faults(Resource(good.type, good.name, inputs, good.outputs))
    assert len(found) == 1
    assert expected in found[0]
