"""The Google APIs that a deployment uses, enabled in its project."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
from pulumi_gcp import projects

APIS = (
    "artifactregistry",
    "cloudbuild",
    "cloudfunctions",
    "cloudresourcemanager",
    "cloudscheduler",
    "firestore",
    "iam",
    "logging",
    "monitoring",
    "pubsub",
    "run",
    "secretmanager",
    "storage",
)


class Apis(pulumi.ComponentResource):
    """Enables the APIs; a teardown leaves them on, for other things in the project may use them."""

    def __init__(self, name: str, *, project: str, also: Sequence[str] = ()) -> None:
        super().__init__("nsps:index:Apis", name)
        self.enabled = [
            projects.Service(
                f"{name}-{api}",
                project=project,
                service=f"{api}.googleapis.com",
                disable_on_destroy=False,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for api in (*APIS, *also)
        ]
        self.register_outputs({})
