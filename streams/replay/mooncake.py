"""Mooncake conversation trace: each line is one LlmCallCompleted at its arrival, tokens as given.

Stated rule for what the trace lacks: it begins on 2025-02-25T00:00:00Z (the opening of FAST 25);
model `mooncake-conversation`, provider `moonshot`; the conversation is named after the second block of
the prompt (the first is the system prompt that all share), or after the line where there is only one;
one of `Options.agents` agents is drawn by seed and conversation. Latency and cost stay null.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from schemas.envelope import parse_time
from schemas.events import LlmCallCompleted
from streams.replay.record import Item, Options, Recorded, find_files
from streams.replay.rows import json_lines
from streams.replay.timeline import agent_of, interleave

PATTERNS = ("*.jsonl",)
START: Final = parse_time("2025-02-25T00:00:00Z")
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Request(msgspec.Struct):
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=10**15)]
    input_length: _Natural
    output_length: _Natural
    hash_ids: list[int]


_DECODER = msgspec.json.Decoder(_Request)


def read(path: Path, options: Options) -> Iterator[Item]:
    """All requests below `path` in time order. Raises NothingToReplay."""
    return interleave((float("-inf"), _requests(file, options)) for file in find_files(path, PATTERNS))


def _requests(file: Path, options: Options) -> Iterator[Item]:
    def request(line: int, text: bytes) -> Iterator[Recorded]:
        r = _DECODER.decode(text)
        conversation = f"mooncake-{r.hash_ids[1]}" if len(r.hash_ids) > 1 else f"mooncake-line-{line}"
        event = LlmCallCompleted(
            agent_id=agent_of(conversation, "mooncake", options),
            call_id=f"{file.stem}-{line}",
            provider_name="moonshot",
            request_model="mooncake-conversation",
            input_tokens=r.input_length,
            output_tokens=r.output_length,
            conversation_id=conversation,
        )
        time = START + r.timestamp / 1000
        yield Recorded(event, time, f"mooncake:{file.stem}:{line}", file, line, correlation_id=conversation)

    return json_lines(file, request)
