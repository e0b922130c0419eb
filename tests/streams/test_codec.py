"""One place gives codecs: who made one of his own would write ids that nobody else has."""

from __future__ import annotations

import ast
from pathlib import Path

import streams

MAY = {
    "codec.py": "the place",
    "simulation.py": "its log is in memory, and nobody else's",
    "testing/playing.py": "the same, with models that need not be locked yet",
}


def test_codecs_come_from_one_place() -> None:
    """Nothing in `streams` makes a Codec but `streams/codec.py`: ask `codec_of(settings)` for one."""
    root = Path(streams.__file__).parent
    found = {
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        if str(path.relative_to(root)) not in MAY
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Codec"
    }
    assert found == set(), "use streams.codec.codec_of(settings)"
