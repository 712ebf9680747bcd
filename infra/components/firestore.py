"""The deployment's own Firestore database: history, ledger, parked events."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pulumi
import yaml
from pulumi_gcp import firestore, projects
from pydantic import BaseModel, ConfigDict, Field

from infra.components.platform import Platform

_BACKUPS_KEPT = "1209600s"  # 14 days
_SUFFIX = {"ascending": "", "descending": "-desc", "contains": "-contains"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IndexedField(_Part):
    field: str
    order: Literal["ascending", "descending", "contains"] = "ascending"


class CompositeIndex(_Part):
    collection: str
    scope: Literal["collection", "group"] = "collection"
    fields: tuple[IndexedField, ...] = Field(min_length=2)


class Expiring(_Part):
    collection: str
    field: str


class Unindexed(_Part):
    collection: str
    fields: tuple[str, ...] = Field(min_length=1)


class Layout(_Part):
    """``firestore.yaml``: composite indexes, fields by which documents expire, fields without."""

    indexes: tuple[CompositeIndex, ...]
    expiring: tuple[Expiring, ...]
    unindexed: tuple[Unindexed, ...]


def read_layout(file: Path) -> Layout:
    """The data file beside the program. Raises pydantic.ValidationError naming the fault."""
    return Layout.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


class Database(pulumi.ComponentResource):
    """A database with point-in-time recovery, a backup a day, and protection from deletion."""

    def __init__(self, platform: Platform, layout: Layout) -> None:
        self.database_id = f"nsps-{platform.deployment}"
        super().__init__("nsps:index:Database", self.database_id)
        self._platform = platform
        self._options = platform.below(self)
        self.database = firestore.Database(
            self.database_id,
            project=platform.project,
            name=self.database_id,
            location_id=platform.region,
            type="FIRESTORE_NATIVE",
            concurrency_mode="OPTIMISTIC",
            point_in_time_recovery_enablement="POINT_IN_TIME_RECOVERY_ENABLED",
            delete_protection_state="DELETE_PROTECTION_ENABLED",
            deletion_policy="ABANDON",  # a teardown leaves it: a person deletes it, knowing why
            cmek_config=firestore.DatabaseCmekConfigArgs(kms_key_name=platform.kms_key)
            if platform.kms_key
            else None,
            opts=self._options,
        )
        firestore.BackupSchedule(
            f"{self.database_id}-daily",
            project=platform.project,
            database=self.database.name,
            retention=_BACKUPS_KEPT,
            daily_recurrence={},
            opts=self._options,
        )
        for index in layout.indexes:
            self._index(index)
        for expiring in layout.expiring:
            self._field(expiring.collection, expiring.field, expires=True)
        for unindexed in layout.unindexed:
            for field in unindexed.fields:
                self._field(unindexed.collection, field, expires=False)
        self.register_outputs({})

    def grant(self, part: str, member: pulumi.Input[str]) -> None:
        """Let a member read and write documents.

        Firestore has no permissions below the project: the condition narrows the role to this
        database.
        """
        name = f"projects/{self._platform.project}/databases/{self.database_id}"
        projects.IAMMember(
            self._platform.name(f"{part}-uses-firestore"),
            project=self._platform.project,
            role="roles/datastore.user",
            member=member,
            condition=projects.IAMMemberConditionArgs(
                title=f"only {self.database_id}", expression=f'resource.name == "{name}"'
            ),
            opts=self._options,
        )

    def _index(self, index: CompositeIndex) -> None:
        fields = "-".join(field.field + _SUFFIX[field.order] for field in index.fields)
        firestore.Index(
            f"{self.database_id}-{index.collection}-{index.scope}-{fields}",
            project=self._platform.project,
            database=self.database.name,
            collection=index.collection,
            query_scope="COLLECTION" if index.scope == "collection" else "COLLECTION_GROUP",
            fields=[
                firestore.IndexFieldArgs(field_path=field.field, array_config="CONTAINS")
                if field.order == "contains"
                else firestore.IndexFieldArgs(field_path=field.field, order=field.order.upper())
                for field in index.fields
            ],
            opts=self._options,
        )

    def _field(self, collection: str, field: str, *, expires: bool) -> None:
        """A field without an index of its own."""
        firestore.Field(
            f"{self.database_id}-{collection}-{field}",
            project=self._platform.project,
            database=self.database.name,
            collection=collection,
            field=field,
            ttl_config=firestore.FieldTtlConfigArgs() if expires else None,
            index_config=firestore.FieldIndexConfigArgs(),
            opts=self._options,
        )
