"""An embedded Secret Manager: the gRPC API that the real client library speaks.

    with SecretManagerServer(state_dir) as server:
        channel = grpc.insecure_channel(server.target)
        transport = SecretManagerServiceGrpcTransport(channel=channel)
        client = SecretManagerServiceClient(transport=transport)

(The client library reads no *_EMULATOR_HOST variable.) Not built: IAM, rotation, expiry, filters.
"""

from __future__ import annotations

from pathlib import Path

from nsps_local.grpc_server import EmbeddedServer
from nsps_local.secretmanager.service import SecretManagerService

__all__ = ["SecretManagerServer", "SecretManagerService"]


class SecretManagerServer(EmbeddedServer):
    """The server in this process: start(), stop(), `target`, `control_url`; a context manager."""

    def __init__(
        self, state_dir: Path | str, port: int = 0, control_port: int = 0, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(
            lambda: SecretManagerService(Path(state_dir)),
            host=host,
            port=port,
            control_port=control_port,
        )
