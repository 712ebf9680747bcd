"""One fixed address for everything NSPS calls, so that operators can allow-list it.

Direct VPC egress: the functions stand in a subnetwork of their own, and leave it through a NAT
with a reserved address.
"""

from __future__ import annotations

import pulumi
from pulumi_gcp import cloudfunctionsv2, compute

from infra.components.platform import Platform

RANGE = "10.10.0.0/22"
"""Direct VPC egress takes addresses in blocks of 16, up to twice as many as instances run."""


class Egress(pulumi.ComponentResource):
    """The network that functions call out through."""

    def __init__(self, platform: Platform) -> None:
        super().__init__("nsps:index:Egress", platform.name("egress"))
        options = platform.below(self)
        project, region = platform.project, platform.region
        network = compute.Network(
            platform.name("network"),
            project=project,
            name=platform.name("network"),
            auto_create_subnetworks=False,
            opts=options,
        )
        subnetwork = compute.Subnetwork(
            platform.name("functions"),
            project=project,
            name=platform.name("functions"),
            region=region,
            network=network.id,
            ip_cidr_range=RANGE,
            private_ip_google_access=True,
            opts=options,
        )
        router = compute.Router(
            platform.name("router"),
            project=project,
            name=platform.name("router"),
            region=region,
            network=network.id,
            opts=options,
        )
        address = compute.Address(
            platform.name("address"),
            project=project,
            name=platform.name("address"),
            region=region,
            address_type="EXTERNAL",
            labels=platform.labels,
            opts=options,
        )
        compute.RouterNat(
            platform.name("nat"),
            project=project,
            name=platform.name("nat"),
            region=region,
            router=router.name,
            nat_ip_allocate_option="MANUAL_ONLY",
            nat_ips=[address.self_link],
            source_subnetwork_ip_ranges_to_nat="LIST_OF_SUBNETWORKS",
            subnetworks=[
                compute.RouterNatSubnetworkArgs(
                    name=subnetwork.id, source_ip_ranges_to_nats=["ALL_IP_RANGES"]
                )
            ],
            log_config=compute.RouterNatLogConfigArgs(enable=True, filter="ERRORS_ONLY"),
            opts=options,
        )
        self.address: pulumi.Output[str] = address.address
        self.interface = cloudfunctionsv2.FunctionServiceConfigDirectVpcNetworkInterfaceArgs(
            network=network.name, subnetwork=subnetwork.name
        )
        self.register_outputs({"address": self.address})
