"""Limits of Google's that a configuration can run into, reckoned from the recorded program. Pure.

(Source: Google Cloud docs, quotas of Pub/Sub, Cloud Run and Direct VPC egress.)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from nsps_local.doctor.finding import Finding, bad, good
from nsps_local.recording.topology import Topology

FILTER_BYTES = 256
VARIABLE_BYTES = 32 * 1024
ADDRESSES_AN_INSTANCE = 2
"""While a revision replaces another, both have instances."""
RESERVED_ADDRESSES = 4
"""Of every subnetwork."""
BEHIND_A_NETWORK = 100
"""Instances of one function with Direct VPC egress, before Google raises the quota."""
SERVICE_NAME = 49
"""Characters of a Cloud Run service's name, which a function's is too."""


def findings(topology: Topology) -> Iterator[Finding]:
    yield from _filters(topology)
    yield from _variables(topology)
    yield from _addresses(topology)
    yield from _functions(topology)


def _filters(topology: Topology) -> Iterator[Finding]:
    longest = max(len(subscription.filter.encode()) for subscription in topology.subscriptions)
    said = f"the longest has {longest} of {FILTER_BYTES} bytes"
    if longest > FILTER_BYTES:
        yield bad("filters", said, "give the handler a shorter name")
    else:
        yield good("filters", said)


def _variables(topology: Topology) -> Iterator[Finding]:
    """One variable of a function tells of every handler: with very many it may grow too large."""
    size, where = max(
        (len(value.encode()), f"{name} of {function.part}")
        for function in topology.functions
        for name, value in function.env.items()
    )
    said = f"the largest, {where}, has {size:,} of {VARIABLE_BYTES:,} bytes"
    if size > VARIABLE_BYTES:
        do = "shorten settings (long templates, large maps), or make two deployments of it"
        yield bad("environment", said, do)
    else:
        yield good("environment", said)


def _addresses(topology: Topology) -> Iterator[Finding]:
    ranges = [
        resource.inputs["ipCidrRange"]
        for resource in topology.resources
        if resource.type == "gcp:compute/subnetwork:Subnetwork"
    ]
    if not ranges:
        return
    there = ipaddress.ip_network(ranges[0]).num_addresses - RESERVED_ADDRESSES
    instances = sum(
        int(resource.inputs["serviceConfig"]["maxInstanceCount"])
        for resource in topology.resources
        if resource.type == "gcp:cloudfunctionsv2/function:Function"
        and resource.inputs["serviceConfig"].get("directVpcNetworkInterfaces")
    )
    wanted = instances * ADDRESSES_AN_INSTANCE
    said = f"{wanted} wanted at the most by {instances} instances, {there} there"
    if wanted > there:
        yield bad("addresses", said, "write smaller `max_instances` under nsps:sizes")
    else:
        yield good("addresses", said)


def _functions(topology: Topology) -> Iterator[Finding]:
    """What each function may run into by itself."""
    for function in topology.functions:
        if len(function.name) > SERVICE_NAME:
            said = f"{function.name} has {len(function.name)} of {SERVICE_NAME} characters"
            yield bad(f"{function.part}: name", said, "write a shorter name for the handler")
        if function.behind_nat and function.max_instances > BEHIND_A_NETWORK:
            yield bad(
                f"{function.part}: instances",
                f"{function.max_instances} may run, {BEHIND_A_NETWORK} get into the network",
                "write smaller `max_instances` under nsps:sizes, or have Google raise the quota",
            )
