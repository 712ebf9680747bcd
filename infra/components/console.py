"""Who reaches the console: the people of its roles, directly or through the Identity-Aware Proxy.

Google lets nobody else through to the function; what each may do there, it decides itself. The
proxy stands on a load balancer of its own, for browsers; commands, and Pub/Sub with the console's
own jobs, keep the function's address. (Set on the function's service itself, the proxy would stop
those.)
"""

from __future__ import annotations

import re

import pulumi
from pulumi_gcp import compute, iap, projects

from infra.components.platform import Platform
from infra.stack_keys import Console

_ACCOUNTS = ".gserviceaccount.com"


def members(console: Console) -> list[str]:
    """The people of all roles, as Google names members, each once."""
    people = dict.fromkeys([*console.viewer, *console.operator, *console.admin])
    return [_member(person) for person in people]


def _member(person: str) -> str:
    if person.startswith("domain:"):
        return person
    return f"{'serviceAccount' if person.endswith(_ACCOUNTS) else 'user'}:{person}"


class QueueFigures(pulumi.ComponentResource):
    """Lets the console read how much waits in Pub/Sub, by a role of the deployment's own: Google's
    narrowest shows alerts and dashboards, too."""

    def __init__(self, platform: Platform, part: str, member: pulumi.Input[str]) -> None:
        super().__init__("nsps:index:QueueFigures", platform.name("queue-figures"))
        options = platform.below(self)
        role_id = f"{platform.deployment}_time_series"
        role = projects.IAMCustomRole(
            platform.name("time-series"),
            project=platform.project,
            role_id=role_id,
            title=f"NSPS {platform.deployment}: time series",
            description="Read the figures of Cloud Monitoring",
            permissions=["monitoring.timeSeries.list"],
            opts=options,
        )
        projects.IAMMember(
            platform.name(f"{part}-reads-time-series"),
            project=platform.project,
            role=f"projects/{platform.project}/roles/{role_id}",
            member=member,
            opts=pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(depends_on=[role])),
        )
        self.register_outputs({})


class Proxy(pulumi.ComponentResource):
    """A load balancer with the Identity-Aware Proxy, before the function ``service``.

    ``address``: what the name ``domain`` must point to; ``audience``: of the proxy's assertions;
    ``member``: the account in whose name it calls. The function is named, not referred to: it is
    made later, for it is told the audience.
    """

    def __init__(self, platform: Platform, service: str, domain: str, people: list[str]) -> None:
        super().__init__("nsps:index:Proxy", platform.name("proxy"))
        self._platform, self._options = platform, platform.below(self)
        agent = projects.ServiceIdentity(
            platform.name("iap-agent"),
            project=platform.project,
            service="iap.googleapis.com",
            opts=self._options,
        )
        self.member: pulumi.Output[str] = pulumi.Output.concat("serviceAccount:", agent.email)
        backend = self._backend(service)
        for person in people:
            iap.WebBackendServiceIamMember(
                platform.name(f"proxy-{person}"),
                project=platform.project,
                web_backend_service=backend.name,
                role="roles/iap.httpsResourceAccessor",
                member=person,
                opts=self._options,
            )
        self.address = self._front(backend, domain)
        number = agent.email.apply(_project_number)
        self.audience: pulumi.Output[str] = pulumi.Output.concat(
            "/projects/", number, "/global/backendServices/", backend.generated_id.apply(str)
        )
        self.register_outputs({"address": self.address})

    def _backend(self, service: str) -> compute.BackendService:
        platform, name = self._platform, self._platform.name("proxy")
        group = compute.RegionNetworkEndpointGroup(
            name,
            project=platform.project,
            name=name,
            region=platform.region,
            network_endpoint_type="SERVERLESS",
            cloud_run=compute.RegionNetworkEndpointGroupCloudRunArgs(service=service),
            opts=self._options,
        )
        return compute.BackendService(
            name,
            project=platform.project,
            name=name,
            load_balancing_scheme="EXTERNAL_MANAGED",
            protocol="HTTPS",
            backends=[compute.BackendServiceBackendArgs(group=group.id)],
            iap=compute.BackendServiceIapArgs(enabled=True),
            opts=self._options,
        )

    def _front(self, backend: compute.BackendService, domain: str) -> pulumi.Output[str]:
        platform, name = self._platform, self._platform.name("proxy")
        address = compute.GlobalAddress(
            name, project=platform.project, name=name, opts=self._options
        )
        certificate = compute.ManagedSslCertificate(
            name,
            project=platform.project,
            name=name,
            managed=compute.ManagedSslCertificateManagedArgs(domains=[domain]),
            opts=self._options,
        )
        routes = compute.URLMap(
            name,
            project=platform.project,
            name=name,
            default_service=backend.id,
            opts=self._options,
        )
        target = compute.TargetHttpsProxy(
            name,
            project=platform.project,
            name=name,
            url_map=routes.id,
            ssl_certificates=[certificate.id],
            opts=self._options,
        )
        compute.GlobalForwardingRule(
            name,
            project=platform.project,
            name=name,
            load_balancing_scheme="EXTERNAL_MANAGED",
            ip_address=address.address,
            port_range="443",
            target=target.id,
            opts=self._options,
        )
        return address.address


def _project_number(agent: str) -> str:
    """The project's number, which Google's own accounts carry: service-123@gcp-sa-..."""
    found = re.match(r"service-(\d+)@", agent)
    if found is None:
        raise ValueError(f"{agent} is no account of Google's own: it names no project number")
    return found[1]
