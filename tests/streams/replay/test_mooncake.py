from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas import events as e
from streams.replay.mooncake import START
from tests.streams.replay.reading import bad_of, good, of_type


def request(timestamp: object = 0, **changes: object) -> str:
    """One request, with some fields changed."""
    fields = {"timestamp": timestamp, "input_length": 600, "output_length": 5, "hash_ids": [0, 9]}
    return json.dumps(fields | changes)


def written(tmp_path: Path, *lines: str) -> Path:
    """A file with these lines."""
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_requests(tmp_path: Path) -> None:
    """A line is a completed call at its arrival; the prompt's second block names the conversation."""
    file = written(
        tmp_path, request(), request(1500, hash_ids=[0, 9, 4]), "", request(1501, hash_ids=[0]), request(1502)
    )
    recorded = good("mooncake", file)
    assert [item.time - START for item in recorded] == pytest.approx([0, 1.5, 1.501, 1.502])
    calls = of_type(recorded, e.LlmCallCompleted)
    conversations = [c.conversation_id for c in calls]
    assert conversations == ["mooncake-9", "mooncake-9", "mooncake-line-4", "mooncake-9"]
    assert len({calls[n].agent_id for n in (0, 1, 3)}) == 1
    assert [item.correlation_id for item in recorded] == conversations
    assert (calls[0].input_tokens, calls[0].output_tokens) == (600, 5)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        (request("x"), "Expected `int`, got `str` - at `$.timestamp`"),
        (request(-1), "$.timestamp"),
        (request(input_length=-3), "$.input_length"),
        (request(output_length=1.5), "$.output_length"),
        (request(hash_ids=None), "$.hash_ids"),
        ('{"x": ' + "[" * 100_000, "nested"),
    ],
)
def test_malformed(tmp_path: Path, line: str, reason: str) -> None:
    """A line that is no request is bad, with its number and field; those around it stay."""
    [(number, said)] = bad_of("mooncake", written(tmp_path, request(), line, request()))
    assert number == 2
    assert reason in said
