"""``python -m nsps_local.certify URL --token TOKEN``: the same as ``nsps certify``."""

import sys

from nsps_local.certify.command import main

if __name__ == "__main__":
    sys.exit(main())
