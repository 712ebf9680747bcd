"""Secret Manager: the secrets that a configuration names, and who may read each of them.

The program makes a secret without a value: values are added by a person (``gcloud secrets versions
add``) and never pass through Pulumi, its state or a file of the repository.
"""

from __future__ import annotations

import pulumi
from pulumi_gcp import projects, secretmanager

from infra.components.platform import Platform


def reference(name: str) -> str:
    """How a function is told of a secret: ``NAME`` or ``NAME/versions/N`` as ``sm://...``."""
    return f"sm://{name}"


class Secrets(pulumi.ComponentResource):
    """The secrets of one deployment, made when first granted.

    ``existing``: those of the project that somebody else made; they are granted alone.
    """

    def __init__(self, platform: Platform, existing: frozenset[str]) -> None:
        super().__init__("nsps:index:Secrets", platform.name("secrets"))
        self._platform, self._existing = platform, existing
        self._options = platform.below(self)
        self._made: dict[str, secretmanager.Secret] = {}
        self._granted: set[tuple[str, str]] = set()
        self.register_outputs({})

    def grant(self, name: str, part: str, member: pulumi.Input[str]) -> None:
        """Let a member read one secret, and no other. ``part`` names whose it is."""
        secret_id = name.partition("/")[0]
        if (secret_id, part) in self._granted:
            return
        self._granted.add((secret_id, part))
        secretmanager.SecretIamMember(
            self._platform.name(f"{part}-reads-{secret_id}"),
            project=self._platform.project,
            secret_id=secret_id
            if secret_id in self._existing
            else self._secret(secret_id).secret_id,
            role="roles/secretmanager.secretAccessor",
            member=member,
            opts=self._options,
        )

    def grant_beginning(self, beginning: str, part: str, member: pulumi.Input[str]) -> None:
        """Let a member read the secrets whose names begin so: one for each subscriber, made by
        whoever loads them. A secret that does not exist yet can be granted by the project alone.
        """
        projects.IAMMember(
            self._platform.name(f"{part}-reads-subscribers-secrets"),
            project=self._platform.project,
            role="roles/secretmanager.secretAccessor",
            member=member,
            condition=projects.IAMMemberConditionArgs(
                title=f"only {beginning}...",
                expression='resource.type == "secretmanager.googleapis.com/SecretVersion" && '
                f'resource.name.extract("/secrets/{{end}}").startsWith("{beginning}")',
            ),
            opts=self._options,
        )

    def _replication(self) -> secretmanager.SecretReplicationArgs:
        """Wherever Google likes, or under the customer's key, which is there in one region."""
        key = self._platform.kms_key
        if key is None:
            return secretmanager.SecretReplicationArgs(
                auto=secretmanager.SecretReplicationAutoArgs()
            )
        replica = secretmanager.SecretReplicationUserManagedReplicaArgs(
            location=self._platform.region,
            customer_managed_encryption=(
                secretmanager.SecretReplicationUserManagedReplicaCustomerManagedEncryptionArgs(
                    kms_key_name=key
                )
            ),
        )
        return secretmanager.SecretReplicationArgs(
            user_managed=secretmanager.SecretReplicationUserManagedArgs(replicas=[replica])
        )

    def _secret(self, secret_id: str) -> secretmanager.Secret:
        if secret_id not in self._made:
            self._made[secret_id] = secretmanager.Secret(
                self._platform.name(f"secret-{secret_id}"),
                project=self._platform.project,
                secret_id=secret_id,
                replication=self._replication(),
                labels=self._platform.labels,
                opts=self._options,
            )
        return self._made[secret_id]
