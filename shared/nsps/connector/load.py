"""Finds the connector class in a connector's folder, for code that serves several connectors."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from nsps.connector.base import AnswersLater, Connector
from nsps.connector.serve import make_connector
from nsps.delivery.instance import InstanceContext
from nsps.runtime.settings import HandlerSettings


class NoConnector(LookupError):
    """A folder has no connector, or more than one."""


def load_connector(folder: Path) -> type[Connector[Any]]:
    """The connector class in a folder's ``connector.py``. Raises NoConnector.

    The folder becomes a package of its own, so that ``connector.py`` may have modules beside it
    (``from .protocol import ...``) whatever the other connectors call theirs.
    """
    if not (folder / "connector.py").is_file():
        raise NoConnector(f"connector {folder.name}: there is no {folder / 'connector.py'}")
    module = _fresh(f"nsps_connectors_{folder.name}", folder)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Connector)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
    if len(found) != 1:
        raise NoConnector(
            f"connector {folder.name}: connector.py defines {len(found)} connectors, not one"
        )
    return found[0]


def _fresh(package: str, folder: Path) -> ModuleType:
    for known in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[known]  # of a folder of the same name elsewhere
    sys.modules[package] = ModuleType(package)
    sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f"{package}.connector")


def late_connectors(
    root: Path, handlers: Iterable[HandlerSettings], context: InstanceContext
) -> dict[str, AnswersLater]:
    """The connectors of the handlers that answer late. Raises NoConnector, SettingsError."""
    connectors: dict[str, AnswersLater] = {}
    for handler in handlers:
        made = make_connector(
            load_connector(root / "connectors" / handler.connector), handler, context
        )
        if not isinstance(made, AnswersLater):
            raise NoConnector(f"connector {handler.connector} does not answer later")
        connectors[handler.name] = made
    return connectors
