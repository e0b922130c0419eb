"""Azure LLM inference trace: each line is one LlmCallCompleted at its arrival, tokens as given.

The trace names neither model, agent nor session. Stated rule: model `azure-conversation`, provider
`azure.ai.openai`, and one of `Options.agents` agents drawn by seed and line. Latency and cost are not
in it and stay null.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from schemas.events import LlmCallCompleted
from streams.replay.record import Item, Options, Recorded, find_files
from streams.replay.rows import count, csv_rows, moment
from streams.replay.timeline import agent_of, interleave

PATTERNS = ("*.csv",)
_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path, options: Options) -> Iterator[Item]:
    """All requests below `path` in time order. Raises NothingToReplay."""
    return interleave((float("-inf"), _requests(file, options)) for file in find_files(path, PATTERNS))


def _requests(file: Path, options: Options) -> Iterator[Item]:
    def request(line: int, values: tuple[str, ...]) -> Iterator[Recorded]:
        timestamp, context, generated = values
        event = LlmCallCompleted(
            agent_id=agent_of(f"azure-llm:{line}", "azure", options),
            call_id=f"{file.stem}-{line}",
            provider_name="azure.ai.openai",
            request_model="azure-conversation",
            input_tokens=count("ContextTokens", context),
            output_tokens=count("GeneratedTokens", generated),
        )
        yield Recorded(event, moment("TIMESTAMP", timestamp), f"azure-llm:{file.stem}:{line}", file, line)

    return csv_rows(file, _COLUMNS, request)
