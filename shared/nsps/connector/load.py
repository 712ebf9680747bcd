"""Finds the connector class of a connector's folder, for those who serve several connectors."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nsps.connector.base import AsynchronousConnector, Connector
from nsps.connector.serve import make_connector
from nsps.delivery.instance import InstanceParts
from nsps.runtime.settings import HandlerSettings


class NoConnector(LookupError):
    """A folder has no connector, or more than one."""


def load_connector(root: Path, name: str) -> type[Connector[Any]]:
    """The connector class in ``<root>/connectors/<name>/main.py``. Raises NoConnector."""
    file = root / "connectors" / name / "main.py"
    if not file.is_file():
        raise NoConnector(f"connector {name}: there is no {file.name} in connectors/{name}")
    module_name = f"nsps_connectors.{name}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec.loader.exec_module(module)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Connector)
        and value.__module__ == module_name
        and not inspect.isabstract(value)
    ]
    if len(found) != 1:
        raise NoConnector(f"connector {name}: main.py defines {len(found)} connectors, not one")
    return found[0]


def asynchronous_connectors(
    root: Path, handlers: Iterable[HandlerSettings], parts: InstanceParts
) -> dict[str, AsynchronousConnector[Any]]:
    """The connectors of the handlers that answer late. Raises NoConnector, SettingsError."""
    connectors = {}
    for handler in handlers:
        made = make_connector(load_connector(root, handler.connector), handler, parts)
        if not isinstance(made, AsynchronousConnector):
            raise NoConnector(f"connector {handler.connector} is not asynchronous")
        connectors[handler.name] = made
    return connectors
