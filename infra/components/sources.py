"""The bucket of the functions' archives, and the account that builds them into containers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pulumi
from pulumi_gcp import projects, storage

from infra.bundle import pack
from infra.components.accounts import account
from infra.components.platform import Platform


class Sources(pulumi.ComponentResource):
    """Packs and uploads functions; two handlers of one connector share its archive."""

    def __init__(self, platform: Platform, root: Path) -> None:
        super().__init__("nsps:index:Sources", platform.name("sources"))
        self._platform = platform
        self._root = root
        self._options = platform.below(self)
        self._uploaded: dict[str, storage.BucketObject] = {}
        self.bucket = storage.Bucket(
            platform.name("sources"),
            project=platform.project,
            name=f"{platform.project}-{platform.name('sources')}",
            location=platform.region,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            force_destroy=True,
            labels=platform.labels,
            opts=self._options,
        )
        self.builder = account(
            platform, "builder", "Builds the functions' archives into containers", self
        )
        # Building needs Cloud Build, Artifact Registry and the build's logs: the role is Google's
        # own for exactly this, and there is none below the project.
        projects.IAMMember(
            platform.name("builder-builds"),
            project=platform.project,
            role="roles/cloudbuild.builds.builder",
            member=self.builder.member,
            opts=self._options,
        )
        self.register_outputs({})

    def archive(self, folder: str, also: Sequence[str] = ()) -> storage.BucketObject:
        """The uploaded archive of a function's folder, like functions/ingress.

        ``also``: other folders that it needs.
        """
        if folder not in self._uploaded:
            packed = pack(self._root, folder, also)
            self._uploaded[folder] = storage.BucketObject(
                self._platform.name(f"archive-{folder.replace('/', '-')}"),
                bucket=self.bucket.name,
                name=packed.object_name,
                source=pulumi.FileAsset(packed.file),
                opts=self._options,
            )
        return self._uploaded[folder]
