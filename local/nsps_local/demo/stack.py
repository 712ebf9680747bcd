"""The stack of the demo: the local one's configuration, with a handler for each system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from nsps_local.demo.systems import SECRETS, System
from nsps_local.stack.ports import HOST, Ports
from nsps_local.stack.stack import ROOT


def callbacks_url(base: int) -> str:
    """Of the callbacks function, which gets the first port of all functions."""
    return f"http://{HOST}:{Ports(base).functions}"


def write_configuration(folder: Path, systems: Sequence[System]) -> tuple[Path, Path]:
    """The files with the configuration and with the secrets' values."""
    content = yaml.safe_load((ROOT / "infra" / "Pulumi.local.yaml").read_text())
    handlers = [dict(system.handler) for system in systems]
    content["config"]["nsps:handlers"] = handlers
    config, secrets = folder / "Pulumi.demo.yaml", folder / "secrets.json"
    config.write_text(yaml.safe_dump(content))
    used = {name for handler in handlers for name in handler["secrets"].values()}
    secrets.write_text(json.dumps({name: SECRETS[name] for name in used}))
    return config, secrets
