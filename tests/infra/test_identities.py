"""The embedded Pub/Sub knows the recorded accounts and grants, as the local stack hands them over.

What the program forgets to grant fails there as it would in production.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nsps_local.pubsub.server import PubSubServer
from nsps_local.recording import Topology
from nsps_local.recording.topology import Binding
from nsps_local.stack import cloud
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.scheduler import Scheduler
from nsps_testing.waiting import wait_for

from tests.local_cloud.pubsub_rig import Endpoint, Rig, endpoint

RETENTION = 31 * 86400


@contextmanager
def deployed(topology: Topology, state: Path) -> Iterator[Rig]:
    with PubSubServer(state, identities=cloud.identities(topology)) as server:
        cloud.make_pubsub(topology, server.target, RETENTION)
        rig = Rig(server.target, server.control_url)
        yield rig
        rig.close()


def served_at(topology: Topology, part: str, http: Endpoint) -> Topology:
    """The topology with one function at a local endpoint."""
    old, new = topology.function(part).url, http.url
    return replace(
        topology,
        functions=tuple(
            replace(each, url=new) if each.part == part else each for each in topology.functions
        ),
        subscriptions=tuple(
            replace(each, push_endpoint=each.push_endpoint.replace(old, new))
            for each in topology.subscriptions
        ),
        jobs=tuple(replace(each, url=each.url.replace(old, new)) for each in topology.jobs),
    )


def without(topology: Topology, forgotten: Callable[[Binding], bool]) -> Topology:
    kept = tuple(binding for binding in topology.bindings if not forgotten(binding))
    assert len(kept) < len(topology.bindings)
    return replace(topology, bindings=kept)


def calls(topology: Topology, part: str) -> Callable[[Binding], bool]:
    """Whether a binding lets somebody call the function."""
    name = topology.function(part).name
    return lambda binding: (binding.kind, binding.resource) == ("function", name)


def test_every_account_exists_and_may_call_where_it_pushes(acme: Topology) -> None:
    known = cloud.identities(acme)
    assert {f.service_account for f in acme.functions} <= (known.accounts or set())
    for subscription in acme.subscriptions:
        assert known.exists(subscription.service_account)
        assert known.admits(subscription.service_account, subscription.push_endpoint)
    for job in acme.jobs:
        assert known.admits(job.service_account, job.url)
    assert known.admits("", f"{acme.function('ingress').url}/anything")
    assert not known.admits("", acme.function("enrichment").url)


def test_an_event_reaches_a_handler_whose_grant_was_not_forgotten(
    acme: Topology, tmp_path: Path
) -> None:
    with endpoint() as http:
        whole = served_at(acme, "hss", http)
        name = f"projects/{acme.project}/subscriptions/{acme.subscription('hss').name}"
        topic = f"projects/{acme.project}/topics/{acme.subscription('hss').topic}"
        with deployed(without(whole, calls(whole, "hss")), tmp_path) as rig:
            rig.publish(topic, b"event", hss="1")
            wait_for(lambda: rig.figures(name).get("push_403"))
            assert rig.figures(name)["backlog"] == 1
        assert http.posts == []
        with deployed(whole, tmp_path) as rig:
            rig.advance(600)
            wait_for(lambda: rig.figures(name)["backlog"] == 0)
        assert len(http.posts) == 1


def test_a_forgotten_account_keeps_the_stack_from_starting(acme: Topology, tmp_path: Path) -> None:
    account = acme.subscription("hss").service_account
    kept = tuple(each for each in acme.accounts if each != account)
    forgotten = replace(acme, accounts=kept)
    with (
        pytest.raises(CannotStart, match=account),
        deployed(forgotten, tmp_path),
    ):
        pass


def test_a_job_is_called_only_with_a_grant(acme: Topology) -> None:
    with endpoint() as http:
        whole = served_at(acme, "retries", http)
        job = next(each for each in whole.jobs if each.url.startswith(http.url))

        def call(topology: Topology) -> int | None:
            known = cloud.identities(topology)
            return Scheduler(topology.jobs, lambda account, audience: "token", known).call(job)

        assert call(without(whole, calls(whole, "retries"))) == 403
        assert http.posts == []
        assert call(whole) == 200
