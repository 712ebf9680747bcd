"""The bill: each part grows with what makes it, and the arithmetic is that of a price list."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps_local.cost.model import (
    Counts,
    Operations,
    per_million,
    per_month,
    read_counts,
    read_prices,
    total,
)
from nsps_local.recording.topology import Database, Function, Job, Resource, Topology

PRICES = read_prices()
NOTHING = Operations(0, 0, 0, 0, 0, 0, 0)


def function(part: str, **more: object) -> Function:
    usual = {
        "name": f"acme-{part}",
        "part": part,
        "source": "",
        "entry_point": "main",
        "env": {} if part in ("ingress", "enrichment", "retries") else {"NSPS_HANDLER": "{}"},
        "secrets": (),
        "port": 1,
        "url": "",
        "public": False,
        "service_account": "",
        "threads": 16,
        "concurrency": 16,
        "memory": "512Mi",
        "timeout_seconds": 60,
        "min_instances": 0,
        "max_instances": 10,
    }
    return Function(**{**usual, **more})  # type: ignore[arg-type]


TOPOLOGY = Topology(
    project="p",
    region="r",
    deployment="acme",
    functions=(function("ingress"), function("enrichment"), function("hss")),
    topics=(),
    subscriptions=(),
    jobs=(),
    secrets=("a", "b"),
    database=Database("d", (), (), ()),
    bindings=(),
)


def counts(one: Operations, three: Operations | None = None) -> Counts:
    return Counts("2026-11-21", one, three or one, NOTHING)


def part(name: str, of: Counts, rate: float = 40, handlers: int = 1) -> float:
    lines = per_million(TOPOLOGY, of, PRICES, rate, handlers)
    return next(line.dollars for line in lines if line.part == name)


def test_operations_cost_what_the_list_says() -> None:
    assert part("Firestore", counts(replace(NOTHING, writes=1))) == pytest.approx(0.9)
    assert part("Firestore", counts(replace(NOTHING, reads=1))) == pytest.approx(0.3)
    assert part("Firestore", counts(replace(NOTHING, deletes=1))) == pytest.approx(0.1)
    assert part("Pub/Sub", counts(replace(NOTHING, published_bytes=2**20))) == pytest.approx(
        40 * 1e6 / 2**20
    )
    mebibyte = counts(replace(NOTHING, stored=2**20))
    assert part("History", mebibyte) == pytest.approx(1e6 / 1024 * 0.15 * 3)


def test_a_request_that_is_alone_pays_its_whole_instance() -> None:
    """At a low pace: 0.1 + 0.4 + 0.4 seconds of an instance, and three requests."""
    second = 0.000024 + 0.5 * 0.0000025
    assert part("Cloud Run", counts(NOTHING), rate=0.001) == pytest.approx(
        1e6 * 0.9 * second + 1.2, rel=0.01
    )


def test_at_a_high_pace_requests_share_an_instance() -> None:
    at_once = 16 * PRICES.assumptions["busy_share"]
    second = 0.000024 + 0.5 * 0.0000025
    expected = 1e6 * 0.9 / at_once * second + 1.2
    assert part("Cloud Run", counts(NOTHING), rate=5000) == pytest.approx(expected)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_a_faster_pace_never_makes_an_event_dearer(one: float, other: float) -> None:
    slow, fast = sorted((one, other))
    of = counts(NOTHING)
    assert part("Cloud Run", of, rate=fast) <= part("Cloud Run", of, rate=slow) * 1.0001


@given(st.integers(1, 20))
def test_every_further_handler_costs_the_same(handlers: int) -> None:
    one = Operations(8, 8, 2, 6500, 6500, 1600, 2000)
    three = Operations(24, 20, 4, 6500, 17500, 2800, 3200)
    of = counts(one, three)
    step = part("Firestore", of, handlers=handlers + 1) - part("Firestore", of, handlers=handlers)
    assert step == pytest.approx(8 * 0.3 + 6 * 0.9 + 1 * 0.1)


def test_what_is_paid_whatever_comes() -> None:
    always = replace(
        TOPOLOGY,
        functions=(function("ingress", min_instances=2), function("retries")),
        jobs=(Job("tick", "* * * * *", "UTC", "", "POST", "", ""),),
    )
    lines = {line.part: line.dollars for line in per_month(always, counts(NOTHING), PRICES)}
    idle = 2 * 730 * 3600 * (0.0000025 + 0.5 * 0.0000025)
    assert lines["Minimum instances"] == pytest.approx(idle)
    assert lines["Secrets"] == pytest.approx(2 * 0.06)
    at_work = 0.3 * (0.000024 + 0.5 * 0.0000025)
    assert lines["Clock"] == pytest.approx(43800 * (0.4 / 1e6 + at_work) + 0.10)
    assert lines["Reserved address"] == 0


def test_cloud_runs_own_lines_are_paid_for_unless_the_program_excludes_them() -> None:
    own = counts(replace(NOTHING, log_bytes=1000))
    kept = "projects/p/logs/run.googleapis.com%2Frequests"
    inputs = {"filter": f'service_name=("acme-ingress" OR "acme-hss") AND logName="{kept}"'}
    exclusion = Resource("gcp:logging/projectExclusion:ProjectExclusion", "x", inputs, {})

    def logs(*resources: Resource) -> float:
        topology = replace(TOPOLOGY, resources=resources)
        lines = per_million(topology, own, PRICES, 40, 1)
        return next(line.dollars for line in lines if line.part == "Logs")

    line = PRICES.assumptions["request_log_bytes"]
    assert logs() == pytest.approx(1e6 / 2**30 * 0.5 * (1000 + 3 * line))
    assert logs(exclusion) == pytest.approx(1e6 / 2**30 * 0.5 * (1000 + line))
    off = replace(exclusion, inputs=inputs | {"disabled": True})
    assert logs(off) == logs()


def test_some_regions_are_dearer() -> None:
    frankfurt = PRICES.of("europe-west3")
    assert frankfurt["vcpu_second"] > PRICES["vcpu_second"]
    assert frankfurt["firestore_write_100k"] == PRICES["firestore_write_100k"]
    assert "vcpu_second" in frankfurt.guessed
    assert PRICES.of("europe-west1") == PRICES


def test_what_stands_behind_the_nat_is_paid_by_the_hour() -> None:
    address = Resource("gcp:compute/address:Address", "acme-address", {}, {})
    functions = (function("enrichment", min_instances=40, behind_nat=True), function("ingress"))
    behind = replace(TOPOLOGY, functions=functions, resources=(address,))
    lines = {line.part: line.dollars for line in per_month(behind, counts(NOTHING), PRICES)}
    assert lines["Reserved address"] == pytest.approx(3.65 + 32 * 730 * 0.0014)


def test_the_data_files_are_whole() -> None:
    assert read_counts().date <= PRICES.date or read_counts().date > "2026-01-01"
    assert set(PRICES.guessed) <= set(PRICES.each)
    assert set(PRICES.multi_region) | set(PRICES.dearer) < set(PRICES.each)
    lines = per_million(TOPOLOGY, read_counts(), PRICES, 40, 3)
    assert 5 < total(lines) < 200
