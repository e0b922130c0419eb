"""Making a package from the files of `streams/new/<kind>`: whole, or nothing."""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from string import Template

from processors.catalog import usable
from schemas.catalog import event_types, topics
from schemas.errors import ConfigurationError
from schemas.locks import lock
from schemas.topic_rules import RESERVED

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 24
_TEMPLATES = Path(__file__).parent


def make(kind: str, name: str, folder: Path) -> Path:
    """Make the package `name` of a kind (`fold`) in `folder`; returns where it is.

    Raises ConfigurationError, with nothing changed, where the name will not do or is there already.
    """
    words = _words(name)
    made = folder / name
    if made.exists():
        raise ConfigurationError(
            f"{made} is there already: nothing was changed", hint="give another name, or remove it first"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as half:
            whole = Path(half) / name
            _write(_TEMPLATES / kind, whole, words)
            with _importable(whole, words["module"]):
                lock(importlib.import_module(f"{words['module']}.events"))
            whole.rename(made)
    except OSError as error:
        raise ConfigurationError(
            f"{made} cannot be made: {error.strerror or error}", hint="run this where you may write"
        ) from error
    return made


def _words(name: str) -> dict[str, str]:
    """What stands for the names in the templates. Raises ConfigurationError."""
    module, camel = name.replace("-", "_"), "".join(part.capitalize() for part in name.split("-"))
    words = {"name": name, "module": module, "fold": camel, "event": f"{camel}Noticed"}
    why = None
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        why = f"small letters, digits and single hyphens, beginning with a letter, {_LONGEST} at most"
    elif keyword.iskeyword(module) or keyword.issoftkeyword(module):
        why = f"{module} is a word of Python's"
    elif importlib.util.find_spec(module) is not None:
        why = f"there is a module {module} already"
    elif name in RESERVED or f"{name}.noticed" in topics():
        why = f"topics that begin with {name}. are somebody else's"
    elif name in {fold.name for fold in usable()}:
        why = f"there is a fold {name} already"
    elif words["event"] in event_types():
        why = f"there is an event type {words['event']} already"
    if why is not None:
        raise ConfigurationError(f"{name!r} is no name for a package: {why}", hint="such as tool-errors")
    return words | {"headwater": version("headwater")}


def _write(template: Path, target: Path, words: dict[str, str]) -> None:
    for source in sorted(template.rglob("*.tmpl")):
        place = source.relative_to(template).with_suffix("")
        parts = [words["module"] if part == "package" else part for part in place.parts]
        file = target.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(source.read_text()).substitute(words))


@contextmanager
def _importable(folder: Path, module: str) -> Iterator[None]:
    """Let a package be imported from where it is made, and leave no trace of it."""
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode
        for name in [n for n in sys.modules if n.partition(".")[0] == module]:
            del sys.modules[name]
