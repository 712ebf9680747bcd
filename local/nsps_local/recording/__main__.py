"""``python -m nsps_local.recording --config infra/Pulumi.local.yaml``: prints the topology as JSON.

Exit status 2 and a report on stderr if the configuration, or a function's folder, is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nsps_local.recording.topology import Topology, read_topology

_ROOT = Path(__file__).resolve().parents[3]
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def main() -> int:
    options = _options()
    program = options.program.resolve()
    sys.path[:0] = [str(program.parent), str(program.parent / "shared")]
    from infra.bundle import BundleError
    from infra.stack_config import ConfigError, Machine, load_stack, localised, read_file

    connectors = program.parent / "functions" / "connectors"
    try:
        values = read_file(options.config)
        notes = load_stack(values, options.config.name, connectors, local=True).notes
        machine = Machine(options.portabilling_url, options.state, _installed)
        resources = _run(program, options, localised(values, machine))
    except (ConfigError, BundleError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    topology = read_topology(resources, notes)
    document = TypeAdapter(Topology).dump_python(topology, mode="json")
    sys.stdout.write(json.dumps(document, sort_keys=True) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nsps_local.recording", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a stack's Pulumi.<stack>.yaml")
    parser.add_argument("--program", type=Path, default=_ROOT / "infra", help="the Pulumi program")
    parser.add_argument("--port-base", type=int, default=8080, help="the first function's port")
    parser.add_argument(
        "--portabilling-url", default="http://127.0.0.1:8070", help="what `sandbox` stands for"
    )
    parser.add_argument(
        "--state", default=str(_ROOT / ".nsps" / "state"), help="what ${state} stands for"
    )
    return parser.parse_args()


def _run(program: Path, options: argparse.Namespace, values: dict[str, Any]) -> Any:
    from nsps_local.recording.mocked import run_program

    config = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }
    stack = options.config.name.removeprefix("Pulumi.").removesuffix(".yaml")
    return run_program(program, stack, config, options.port_base)


def _installed(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SBIN}") is not None


if __name__ == "__main__":
    raise SystemExit(main())
