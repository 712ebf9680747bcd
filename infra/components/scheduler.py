"""The clock of the deployment: a tick a minute for what waits (parked events, late answers)."""

from __future__ import annotations

import pulumi
from pulumi_gcp import cloudscheduler

from infra.components.accounts import PushIdentity
from infra.components.function import Function
from infra.components.platform import Platform

EVERY_MINUTE = "* * * * *"


class Tick(pulumi.ComponentResource):
    """Calls ``/tick`` of a function every minute, under the same identity as the pushes.

    A tick that failed is not repeated: the next one comes within the minute.
    """

    def __init__(self, platform: Platform, pushes: PushIdentity, function: Function) -> None:
        super().__init__("nsps:index:Tick", platform.name("tick"))
        cloudscheduler.Job(
            platform.name("tick-job"),
            project=platform.project,
            region=platform.region,
            name=platform.name("tick"),
            description="Sends again what is due, and closes what has waited long enough",
            schedule=EVERY_MINUTE,
            time_zone="Etc/UTC",
            attempt_deadline=f"{function.timeout_seconds}s",
            http_target=cloudscheduler.JobHttpTargetArgs(
                uri=pulumi.Output.concat(function.uri, "/tick"),
                http_method="POST",
                oidc_token=cloudscheduler.JobHttpTargetOidcTokenArgs(
                    service_account_email=pushes.account.email, audience=function.audience
                ),
            ),
            opts=platform.below(self),
        )
        self.register_outputs({})
