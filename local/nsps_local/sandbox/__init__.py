"""A PortaBilling small enough to read: the API, ESPF's EventSender and status API, and a page to
play on.

One process, one port on loopback. For scripts and tests:

    python -m nsps_local.sandbox --port 8444 --state DIR --config FILE
    Sandbox(state_dir, config={"webhook": {"url": "http://127.0.0.1:8080/"}}).start()
"""

from nsps_local.sandbox.config import SandboxConfig
from nsps_local.sandbox.server import PortBusy, Sandbox
from nsps_local.sandbox.store import StateInUse

__all__ = ["PortBusy", "Sandbox", "SandboxConfig", "StateInUse"]
