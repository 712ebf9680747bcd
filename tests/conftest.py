"""Before any test imports gRPC: tests start processes as `nsps` does, with its care for forks."""

import nsps_local  # noqa: F401 (it sets what gRPC looks at when it is imported)
