"""Cloud Run's own line for each request, beside the functions' own: kept where it tells something.

A request that went well tells nothing there that the function's own line does not; on the way of
an event they would be the larger part of what logging costs. Refused and failed requests are kept,
and all of the console's, where people come in. Request counts and latencies are metrics of Cloud
Run's own: they do not come from these lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
from pulumi_gcp import logging

from infra.components.platform import Platform


class RequestLines(pulumi.ComponentResource):
    """Keeps the lines of well answered requests of these functions (``parts``) out of the log."""

    def __init__(self, platform: Platform, parts: Sequence[str]) -> None:
        super().__init__("nsps:index:RequestLines", platform.name("request-lines"))
        services = " OR ".join(f'"{platform.name(part)}"' for part in parts)
        clauses = [
            'resource.type="cloud_run_revision"',
            f"resource.labels.service_name=({services})",
            f'logName="projects/{platform.project}/logs/run.googleapis.com%2Frequests"',
            "httpRequest.status<400",
        ]
        logging.ProjectExclusion(
            platform.name("well-answered"),
            project=platform.project,
            name=platform.name("well-answered"),
            description="Requests that went well; the functions' own lines tell of them",
            filter=" AND ".join(clauses),
            opts=platform.below(self),
        )
        self.register_outputs({})
