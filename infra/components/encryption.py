"""The customer's own key (CMEK) for whatever holds subscribers' data or secrets.

Topics, the database and the secrets are then encrypted under a key of Cloud KMS that the customer
keeps and can take away. The archives hold code only, and stay under Google's keys.
"""

from __future__ import annotations

import pulumi
from pulumi_gcp import kms, projects

SERVICES = ("pubsub", "firestore", "secretmanager")


class Encryption(pulumi.ComponentResource):
    """Lets the services use the key; ``granted`` must be there before anything is encrypted."""

    def __init__(
        self, deployment: str, project: str, key: str, apis: list[projects.Service]
    ) -> None:
        name = f"{deployment}-encryption"
        super().__init__("nsps:index:Encryption", name)
        self.granted: list[pulumi.Resource] = []
        for service in SERVICES:
            agent = projects.ServiceIdentity(
                f"{name}-{service}",
                project=project,
                service=f"{service}.googleapis.com",
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(apis)),
            )
            # Another deployment may use the same key: a teardown leaves the right where it is.
            grant = kms.CryptoKeyIAMMember(
                f"{name}-{service}-uses-key",
                crypto_key_id=key,
                role="roles/cloudkms.cryptoKeyEncrypterDecrypter",
                member=pulumi.Output.concat("serviceAccount:", agent.email),
                opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True),
            )
            self.granted.append(grant)
        self.register_outputs({})
