"""The formats that can be replayed, by the name that the command takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.errors import ConfigurationError
from streams.replay import azure_llm, bgl, events, mooncake, nab, tau_bench, who_and_when
from streams.replay.record import Item, Options, find_files


@dataclass(frozen=True)
class Format:
    """One format: how to read it and which of a folder's files belong to it.

    `read` is pure: the same files and options give the same items. A path is a file or a folder.
    """

    name: str
    about: str
    read: Callable[[Path, Options], Iterator[Item]]
    patterns: tuple[str, ...]

    def files(self, path: Path) -> list[Path]:
        """The files that `read` reads. Raises NothingToReplay."""
        return find_files(path, self.patterns)


FORMATS: Final[dict[str, Format]] = {
    f.name: f
    for f in (
        Format("tau-bench", "recorded sessions of an airline agent", tau_bench.read, tau_bench.PATTERNS),
        Format("who-and-when", "failed runs of a team of agents", who_and_when.read, who_and_when.PATTERNS),
        Format("nab", "metrics of hosts, with anomalies", nab.read, nab.PATTERNS),
        Format("azure-llm", "arrivals and tokens of an LLM service", azure_llm.read, azure_llm.PATTERNS),
        Format(
            "mooncake", "arrivals, tokens and prefixes of an LLM service", mooncake.read, mooncake.PATTERNS
        ),
        Format("bgl", "error log of a supercomputer", bgl.read, bgl.PATTERNS),
        Format(
            "events", "our own JSON lines, as `headwater tail --json` writes", events.read, events.PATTERNS
        ),
    )
}


def format_named(name: str) -> Format:
    """The format of that name. Raises ConfigurationError with the names there are."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ConfigurationError(f"{name!r} is no format", hint=f"one of {', '.join(FORMATS)}") from None
