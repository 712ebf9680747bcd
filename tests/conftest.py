"""Before any test imports gRPC: tests start processes as `nsps` does, with its care for forks."""

import nsps_local  # noqa: F401 (it sets what gRPC looks at when it is imported)
from hypothesis import settings

# How long an example takes depends on what else the machine does; benchmarks measure time.
settings.register_profile("nsps", deadline=None)
settings.load_profile("nsps")
