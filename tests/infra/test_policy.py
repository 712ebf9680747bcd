"""The security policy holds for the whole program, and each planted breach of it is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from nsps_local.recording import Binding, Resource, Topology

from tests.infra.policy import IN_THE_PROJECT, NO_DEAD_LETTERS, PUBLIC, faults


def test_the_program_keeps_the_policy(acme: Topology) -> None:
    assert faults(acme) == []


def test_whatever_is_excepted_is_there(acme: Topology) -> None:
    assert {f.part for f in acme.functions if f.public} == set(PUBLIC)
    assert {s.part for s in acme.subscriptions if not s.dead_letter_topic} == set(NO_DEAD_LETTERS)
    own = "projects/acme-provisioning/roles/acme_"
    granted = {b.role.removeprefix(own) for b in acme.bindings if b.kind == "project"}
    assert granted == set(IN_THE_PROJECT)


def granted(kind: str, resource: str, role: str, member: str) -> Callable[[Topology], Topology]:
    def plant(topology: Topology) -> Topology:
        binding = Binding(kind, resource, role, member, None)
        return replace(topology, bindings=(*topology.bindings, binding))

    return plant


def function(part: str, **changes: Any) -> Callable[[Topology], Topology]:
    def plant(topology: Topology) -> Topology:
        changed = tuple(replace(f, **changes) if f.part == part else f for f in topology.functions)
        return replace(topology, functions=changed)

    return plant


def subscription(part: str, **changes: Any) -> Callable[[Topology], Topology]:
    def plant(topology: Topology) -> Topology:
        changed = tuple(
            replace(s, **changes) if s.part == part else s for s in topology.subscriptions
        )
        return replace(topology, subscriptions=changed)

    return plant


def environment(part: str, name: str, value: str) -> Callable[[Topology], Topology]:
    def plant(topology: Topology) -> Topology:
        env = {**topology.function(part).env, name: value}
        return function(part, env=env)(topology)

    return plant


def resource(kind: str, inputs: dict[str, Any]) -> Callable[[Topology], Topology]:
    def plant(topology: Topology) -> Topology:
        planted = Resource(kind, "planted", inputs, {})
        return replace(topology, resources=(*topology.resources, planted))

    return plant


INVOKER = "roles/run.invoker"
HSS = "acme-hss@acme-provisioning.iam.gserviceaccount.com"
PLANTED: list[tuple[Callable[[Topology], Topology], str]] = [
    (granted("function", "acme-hss", INVOKER, "allUsers"), "open to everybody"),
    (granted("function", "acme-console", INVOKER, "allAuthenticatedUsers"), "open to everybody"),
    (granted("topic", "acme-espf-events", "roles/pubsub.publisher", "allUsers"), "open to every"),
    (granted("project", "acme", "roles/editor", f"serviceAccount:{HSS}"), "a primitive role"),
    (granted("topic", "acme-jobs", "roles/owner", f"serviceAccount:{HSS}"), "a primitive role"),
    (granted("project", "acme", "roles/pubsub.admin", f"serviceAccount:{HSS}"), "not on the list"),
    (
        granted("subscription", "acme-hss", "roles/pubsub.editor", f"serviceAccount:{HSS}"),
        "not on the list",
    ),
    (
        resource(
            "gcp:projects/iAMCustomRole:IAMCustomRole",
            {"roleId": "acme_push_endpoint", "permissions": ["pubsub.subscriptions.delete"]},
        ),
        "the role push_endpoint allows pubsub.subscriptions.delete",
    ),
    (granted("secret", "acme-pb", "roles/secretmanager.admin", "user:a@b"), "not on the list"),
    (granted("project", "acme", "roles/datastore.user", f"serviceAccount:{HSS}"), "every database"),
    (
        granted("project", "acme", "roles/secretmanager.secretAccessor", f"serviceAccount:{HSS}"),
        "secrets of others",
    ),
    (
        granted("account", HSS, "roles/iam.serviceAccountUser", "user:a@b.example"),
        "may act as acme-hss",
    ),
    (function("oms", service_account=HSS), "runs under the account of acme-hss"),
    (
        function("oms", service_account="1-compute@developer.gserviceaccount.com"),
        "runs under 1-compute@",
    ),
    (function("hss-2", internal=False), "the internet reaches acme-hss-2"),
    (function("enrichment", internal=False), "the internet reaches acme-enrichment"),
    (subscription("hss", dead_letter_topic=None), "acme-hss has no dead letters"),
    (subscription("hss", service_account=""), "acme-hss pushes without a token"),
    (environment("hss", "NSPS_API_TOKEN", "hunter2"), "NSPS_API_TOKEN is no reference"),
    (
        environment(
            "oms",
            "NSPS_HANDLER",
            '{"contract_token": "sm://t", "secrets": {"password": "hunter2"}}',
        ),
        "NSPS_HANDLER.secrets.password is no reference",
    ),
    (
        resource("gcp:secretmanager/secretVersion:SecretVersion", {"secretData": "x"}),
        "has a secret's value in the program",
    ),
    (
        resource("gcp:cloudscheduler/job:Job", {"uri": "https://u:hunter2@host/"}),
        "carries what looks like a secret",
    ),
]


@pytest.mark.parametrize(("plant", "expected"), PLANTED)
def test_a_planted_breach_is_found(
    acme: Topology, plant: Callable[[Topology], Topology], expected: str
) -> None:
    found = faults(plant(copy.copy(acme)))
    assert len(found) == 1, found
    assert expected in found[0]
