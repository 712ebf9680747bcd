"""``python -m nsps_local.cli``: the same as ``nsps``."""

import sys

from nsps_local.cli import main

if __name__ == "__main__":
    sys.exit(main())
