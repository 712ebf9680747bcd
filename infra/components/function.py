"""One cloud function: archive, instance size, account, environment, secrets, who may call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_gcp import cloudfunctionsv2, cloudrunv2

from infra.components.accounts import PushIdentity, account, account_email
from infra.components.network import Egress
from infra.components.platform import Platform
from infra.components.secrets import Secrets, reference
from infra.components.sources import Sources
from infra.encoding import json_text

RUNTIME = "python311"
ENTRY_POINT = "main"


@dataclass(frozen=True, slots=True)
class InstanceSize:
    """What one instance has and how many there may be.

    ``concurrency`` is also the number of threads: more requests than threads would wait inside
    the instance while others stand idle.
    """

    memory: str = "512Mi"
    concurrency: int = 16
    min_instances: int = 0
    max_instances: int = 20


@dataclass(frozen=True, slots=True)
class FunctionArgs:
    """What a function is.

    ``purpose``: a sentence for people. ``secrets``: names that it may read. ``also``: folders of
    the repository that it needs beside its own. ``public``: callable without a Google identity
    (it authenticates by itself). ``internal``: nothing on the internet reaches it, only Google's
    pushes and ticks and the deployment's own network. ``calls_out``: leaves through the fixed
    address, where the deployment has one. ``pushed``: Pub/Sub or the scheduler call it.
    ``callers``: other functions of the deployment that do.
    """

    part: str
    folder: str
    purpose: str
    environment: Mapping[str, pulumi.Input[str]]
    secrets: tuple[str, ...]
    size: InstanceSize
    timeout_seconds: int = 120
    public: bool = False
    internal: bool = False
    calls_out: bool = True
    also: tuple[str, ...] = ()
    pushed: bool = True
    callers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the functions of one deployment share."""

    platform: Platform
    sources: Sources
    secrets: Secrets
    pushes: PushIdentity
    database_id: str
    digest_key: str
    egress: Egress | None


class Function(pulumi.ComponentResource):
    """A function under an account of its own, with that account's rights to its secrets.

    ``url``: where people and other systems find it, and what tokens for it are made out to.
    ``uri``: its run.app address; only what comes there can count as internal.
    """

    def __init__(self, around: Surroundings, args: FunctionArgs) -> None:
        platform = around.platform
        self.name = platform.name(args.part)
        super().__init__("nsps:index:Function", self.name)
        self._around = around
        self._args = args
        self.part = args.part
        self.timeout_seconds = args.timeout_seconds
        self.audience = platform.audience(args.part)
        self.account = account(platform, args.part, args.purpose, self)
        self.member: pulumi.Output[str] = self.account.member
        for secret in (around.digest_key, *args.secrets):
            around.secrets.grant(secret, args.part, self.member)
        self.function = cloudfunctionsv2.Function(
            self.name,
            project=platform.project,
            name=self.name,
            location=platform.region,
            description=args.purpose,
            labels=platform.labels,
            build_config=self._build(),
            service_config=self._service(),
            opts=platform.below(self),
        )
        self.url: pulumi.Output[str] = self.function.url
        self.uri: pulumi.Output[str] = self.function.service_config.apply(_uri)
        self._invoker()
        self.register_outputs({"url": self.url})

    def _build(self) -> cloudfunctionsv2.FunctionBuildConfigArgs:
        archive = self._around.sources.archive(self._args.folder, self._args.also)
        return cloudfunctionsv2.FunctionBuildConfigArgs(
            runtime=RUNTIME,
            entry_point=ENTRY_POINT,
            service_account=self._around.sources.builder.name,
            source=cloudfunctionsv2.FunctionBuildConfigSourceArgs(
                storage_source=cloudfunctionsv2.FunctionBuildConfigSourceStorageSourceArgs(
                    bucket=archive.bucket, object=archive.name
                )
            ),
        )

    def _service(self) -> cloudfunctionsv2.FunctionServiceConfigArgs:
        size = self._args.size
        egress = self._around.egress if self._args.calls_out else None
        return cloudfunctionsv2.FunctionServiceConfigArgs(
            available_memory=size.memory,
            available_cpu="1",  # concurrency above 1 needs a whole one
            max_instance_request_concurrency=size.concurrency,
            min_instance_count=size.min_instances,
            max_instance_count=size.max_instances,
            timeout_seconds=self._args.timeout_seconds,
            ingress_settings="ALLOW_INTERNAL_ONLY" if self._args.internal else "ALLOW_ALL",
            all_traffic_on_latest_revision=True,
            service_account_email=self.account.email,
            environment_variables=self._environment(),
            direct_vpc_network_interfaces=[egress.interface] if egress else None,
            direct_vpc_egress="VPC_EGRESS_ALL_TRAFFIC" if egress else None,
        )

    def _environment(self) -> dict[str, pulumi.Input[str]]:
        platform = self._around.platform
        environment: dict[str, pulumi.Input[str]] = {
            "GOOGLE_CLOUD_PROJECT": platform.project,
            "NSPS_DEPLOYMENT": platform.deployment,
            "NSPS_FUNCTION": self.part,
            "NSPS_DATABASE": self._around.database_id,
            "NSPS_DIGEST_KEY": reference(self._around.digest_key),
            "THREADS": str(self._args.size.concurrency),
            "WORKERS": "1",
        }
        if self._args.pushed:
            also = [account_email(platform, part) for part in self._args.callers]
            known = {"audience": self.audience} | ({"also": also} if also else {})
            environment["NSPS_PUSH"] = self._around.pushes.account.email.apply(
                lambda email: json_text({**known, "service_account": email})
            )
        return environment | dict(self._args.environment)

    def _invoker(self) -> None:
        public = self._args.public
        self.admit("invoker", "allUsers" if public else self._around.pushes.account.member)

    def allow(self, caller: Function) -> None:
        """Let another function of the deployment call this one."""
        self.admit(caller.part, caller.member)

    def admit(self, who: str, member: pulumi.Input[str]) -> None:
        """Let a member ("user:...", "serviceAccount:...") call this one."""
        platform = self._around.platform
        cloudrunv2.ServiceIamMember(
            f"{self.name}-{who}",
            project=platform.project,
            location=platform.region,
            name=self.function.name,  # a function's service bears its name
            role="roles/run.invoker",
            member=member,
            opts=platform.below(self),
        )


def _uri(service: cloudfunctionsv2.outputs.FunctionServiceConfig | None) -> str:
    if service is None or service.uri is None:
        raise ValueError("Google has told no address of a function")
    return service.uri
