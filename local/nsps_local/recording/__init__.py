"""The local stack's plan: the Pulumi program run without Google, and what it would have made.

    topology = record(Path("infra/Pulumi.local.yaml"), port_base=8080, ...)

There is no second description of functions, topics, subscriptions, secrets or rights: what is
deployed and what runs here come from the same program and the same configuration.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pydantic import TypeAdapter

from nsps_local.recording.topology import (
    Binding,
    CompositeIndex,
    Database,
    Field,
    Function,
    IndexField,
    Job,
    Resource,
    Subscription,
    Topology,
)

__all__ = [
    "Binding",
    "CompositeIndex",
    "ConfigurationRejected",
    "Database",
    "Field",
    "Function",
    "IndexField",
    "Job",
    "RecordingFailed",
    "Resource",
    "Subscription",
    "Topology",
    "record",
]

ROOT = Path(__file__).resolve().parents[3]
_SECONDS = 60.0


class RecordingFailed(RuntimeError):
    """The Pulumi program could not be run; the message is what it said last."""


class ConfigurationRejected(ValueError):
    """The configuration is wrong; the message has every problem, one a line."""


def record(
    config: Path,
    *,
    port_base: int = 8080,
    portabilling_url: str = "http://127.0.0.1:8070",
    state: Path = ROOT / ".nsps" / "state",
    program: Path = ROOT / "infra",
) -> Topology:
    """Run the program for a stack's configuration in a process of its own; return what it makes.

    ``port_base``: functions are to be served on 127.0.0.1 from this port on. ``portabilling_url``
    and ``state`` stand in for ``sandbox`` and ``${state}``. Takes about two seconds.
    Raises ConfigurationRejected or RecordingFailed.
    """
    command = [sys.executable, "-m", "nsps_local.recording"]
    command += ["--config", str(config), "--program", str(program)]
    command += ["--port-base", str(port_base), "--portabilling-url", portabilling_url]
    command += ["--state", str(state)]
    try:
        done = subprocess.run(  # noqa: S603 our own program
            command,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except subprocess.TimeoutExpired:
        raise RecordingFailed(f"the Pulumi program was not done after {_SECONDS:.0f} s") from None
    if done.returncode == 2:
        raise ConfigurationRejected(done.stderr.strip())
    if done.returncode != 0:
        raise RecordingFailed(done.stderr.strip())
    return TypeAdapter(Topology).validate_json(done.stdout)
