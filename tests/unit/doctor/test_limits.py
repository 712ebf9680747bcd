"""Limits of Google's that a configuration runs into are named before a deployment does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nsps_local.doctor.finding import State
from nsps_local.doctor.limits import findings
from nsps_local.recording.topology import Database, Function, Subscription, Topology

HSS = Function(
    name="acme-hss",
    part="hss",
    source="",
    entry_point="main",
    env={"NSPS_HANDLER": '{"call_timeout_seconds": 15}'},
    secrets=(),
    port=1,
    url="",
    public=False,
    service_account="",
    threads=16,
    concurrency=16,
    memory="512Mi",
    timeout_seconds=120,
    min_instances=0,
    max_instances=20,
    behind_nat=True,
)
QUEUE = Subscription(
    "acme-hss", "hss", "t", "", "", "", "attributes:hss", 120, 10, 600, "d", 100, 1, False
)
TOPOLOGY = Topology(
    project="p",
    region="r",
    deployment="acme",
    functions=(HSS,),
    topics=(),
    subscriptions=(QUEUE,),
    jobs=(),
    secrets=(),
    database=Database("d", (), (), ()),
    bindings=(),
)


def wrong(topology: Topology) -> dict[str, str]:
    return {each.what: each.said for each in findings(topology) if each.state is State.BAD}


def test_an_ordinary_handler_runs_into_none() -> None:
    assert wrong(TOPOLOGY) == {}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"max_instances": 101}, "hss: instances"),
        ({"name": "acme-" + "h" * 45}, "hss: name"),
        ({"env": {"NSPS_HANDLER": '{"call_timeout_seconds": 1}', "X": "x" * 32769}}, "environment"),
    ],
)
def test_what_is_too_much_is_named(change: dict[str, object], what: str) -> None:
    changed = replace(TOPOLOGY, functions=(replace(HSS, **change),))  # type: ignore[arg-type]
    assert list(wrong(changed)) == [what]


def test_a_filter_that_is_too_long_is_named() -> None:
    long = replace(QUEUE, filter="attributes:" + "h" * 256)
    assert list(wrong(replace(TOPOLOGY, subscriptions=(long,)))) == ["filters"]


def test_outside_of_the_network_its_limit_does_not_count() -> None:
    outside = replace(HSS, max_instances=500, behind_nat=False)
    assert wrong(replace(TOPOLOGY, functions=(outside,))) == {}
