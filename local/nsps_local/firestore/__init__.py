"""An embedded Firestore: the gRPC API that the real client libraries speak, on SQLite.

    with FirestoreServer(state_dir) as server:
        os.environ["FIRESTORE_EMULATOR_HOST"] = server.target
        client = firestore.Client(project="demo")

Semantics are those of production (native mode) where functions can tell: serializable
transactions, preconditions, atomic commits that survive a killed process, strictly increasing
commit times, limits, value order, indexes, listeners. Not built: vector search, pipelines,
backups. Every project and every database id exists, unless the databases are named.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nsps_local.firestore.indexes import Indexes
from nsps_local.firestore.names import field_path
from nsps_local.firestore.service import FirestoreService
from nsps_local.grpc_server import EmbeddedServer, Refused

__all__ = ["FirestoreServer", "FirestoreService", "service"]


class FirestoreServer(EmbeddedServer):
    """The server inside this process: start(), stop(), `target`, `control_url`; a context manager.

    `indexes` is a file like firestore.indexes.json: queries that need another index are refused.
    `ttl` lists fields as "collectionGroup.field"; documents whose time there is past are deleted.
    `databases` names (as "projects/P/databases/D") those that exist, if not every one is to.
    `monotonic`: by which the server's clock runs, in seconds.
    """

    def __init__(
        self,
        state_dir: Path | str,
        port: int = 0,
        control_port: int = 0,
        indexes: Path | str | None = None,
        ttl: Sequence[str] = (),
        host: str = "127.0.0.1",
        monotonic: Callable[[], float] = time.monotonic,
        databases: Sequence[str] = (),
    ) -> None:
        super().__init__(
            lambda: service(state_dir, indexes, ttl, monotonic, databases),
            host=host,
            port=port,
            control_port=control_port,
        )


def service(
    state_dir: Path | str,
    indexes: Path | str | None = None,
    ttl: Sequence[str] = (),
    monotonic: Callable[[], float] = time.monotonic,
    databases: Sequence[str] = (),
) -> FirestoreService:
    """The service on a state directory. Raises ValueError where an option makes no sense."""
    fields = []
    for name in ttl:
        group, dot, path = name.partition(".")
        if not (group and dot and path):
            raise ValueError(f'The TTL field "{name}" is not of the form collectionGroup.field.')
        try:
            fields.append((group, field_path(path)))
        except Refused as refused:
            raise ValueError(f'The TTL field "{name}": {refused.text}') from None
    for name in databases:
        if not re.fullmatch(r"projects/[^/]+/databases/[^/]+", name):
            raise ValueError(f'The database "{name}" is not of the form projects/P/databases/D.')
    declared = Indexes.read(Path(indexes)) if indexes is not None else None
    return FirestoreService(Path(state_dir), declared, fields, monotonic, databases)
