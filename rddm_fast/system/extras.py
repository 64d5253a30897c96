"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import and return `module`, which `pip install rddm_fast[extra]` installs.

    An import that fails inside an installed package is not hidden: its own error goes through.

    Raises:
        ImportError: the package is not installed; the message holds the pip command.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        message = f"{package} is not installed; pip install 'rddm_fast[{extra}]' installs it"
        raise ImportError(message, name=package) from error
