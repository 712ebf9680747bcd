"""Who reaches the console: the people of its roles, or the Identity-Aware Proxy before it.

Google lets nobody else through to the function; what each may do there, it decides itself.
"""

from __future__ import annotations

import pulumi
from pulumi_gcp import projects

from infra.components.function import Function
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


def proxy_agent(platform: Platform, console: Function) -> pulumi.Output[str]:
    """The account in whose name the Identity-Aware Proxy calls."""
    agent = projects.ServiceIdentity(
        platform.name("iap-agent"),
        project=platform.project,
        service="iap.googleapis.com",
        opts=platform.below(console),
    )
    return pulumi.Output.concat("serviceAccount:", agent.email)
