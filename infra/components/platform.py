"""What every component of one deployment shares: project, region, names, and who may push."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, slots=True)
class Platform:
    """One deployment in one project and region. ``apis``: what must be there before anything.

    ``kms_key``: the customer's own key for what holds data; None for Google's.
    """

    project: str
    region: str
    deployment: str
    apis: Sequence[pulumi.Resource] = ()
    kms_key: str | None = None

    def name(self, part: str) -> str:
        """The name of whatever is made: it carries the deployment's, for a project may hold two."""
        return f"{self.deployment}-{part}"

    def audience(self, function: str) -> str:
        """The function's address: what a push token for it is made out to.

        Google derives it from region, project and name, so it is known before the function is
        made: the function can be told its own without a circular reference.
        """
        return f"https://{self.region}-{self.project}.cloudfunctions.net/{self.name(function)}"

    @property
    def labels(self) -> Mapping[str, str]:
        """On everything that costs money."""
        return {"nsps-deployment": self.deployment}

    def below(self, parent: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options of a component's own resources: its children, made after the APIs are there."""
        return pulumi.ResourceOptions(parent=parent, depends_on=list(self.apis))
