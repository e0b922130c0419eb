"""Modules of the user's, by the names that he gives on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from schemas.errors import ConfigurationError


def imported(name: str) -> ModuleType:
    """The module of that name; the working folder is searched too. Raises ConfigurationError."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path takes strings
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigurationError(
            f"module {name} cannot be imported: {type(error).__name__}: {error}",
            hint="run this where it can be: in its folder, or with its package installed",
        ) from error
