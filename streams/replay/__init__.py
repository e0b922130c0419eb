"""Replays recorded data sets as events of a project: formats, the driver, our own JSON lines."""

from streams.replay.driver import Report, Sink, replay
from streams.replay.formats import FORMATS, Format, format_named
from streams.replay.json_lines import JsonEvent, from_json_line, to_json_line
from streams.replay.record import BadRecord, MalformedRecord, NothingToReplay, Options, Recorded

__all__ = [
    "FORMATS",
    "BadRecord",
    "Format",
    "JsonEvent",
    "MalformedRecord",
    "NothingToReplay",
    "Options",
    "Recorded",
    "Report",
    "Sink",
    "format_named",
    "from_json_line",
    "replay",
    "to_json_line",
]
