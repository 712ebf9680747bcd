"""NSPS on one machine: the embedded cloud, the PortaBilling sandbox, the ``nsps`` command."""

import os

# Looked at when gRPC is first imported. Our processes start others while gRPC is in use and never
# use it in a child before exec; gRPC's own care for forks can end such a child.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
