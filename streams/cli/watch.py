"""Events in a terminal: one coloured line each, or JSON, for `headwater tail`."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from schemas.codec import Decoded
from schemas.envelope import producer_key
from streams.settings import Settings
from streams.tail import Filters, Range, Shown, key_text, plain_key, tail

_BAD = ("Failed", "Error", "DeadLetter", "Anomaly", "Fault")
_LONGEST = 120


async def watch(
    settings: Settings, names: Sequence[str], filters: Filters, where: Range, *, as_json: bool
) -> None:
    """Print events until Ctrl-C, or to the end of the log. Undecodable records go to stderr."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    out = Console(highlight=False, soft_wrap=True)
    async for shown in tail(settings, names, filters, where, stop):
        if shown.decoded is None:
            record = shown.record
            sys.stderr.write(
                f"{record.topic}/{record.partition}@{record.offset} {key_text(record)}: {shown.error}\n"
            )
        elif as_json:
            sys.stdout.write(_json(shown.decoded, shown) + "\n")
            sys.stdout.flush()
        else:
            out.print(line(shown.decoded, shown))


def _json(decoded: Decoded, shown: Shown) -> str:
    from streams.replay.json_lines import to_json_line  # noqa: PLC0415 - coloured lines do without

    record = shown.record
    position = (record.topic, record.partition, record.offset)
    by = producer_key(record.headers)
    return to_json_line(decoded.event, decoded.envelope, plain_key(decoded), position, by).decode()


def line(decoded: Decoded, shown: Shown) -> Text:
    """One event as a line: time, type, key, project, correlation id, fields, position."""
    envelope, record = decoded.envelope, shown.record
    at = datetime.fromtimestamp(envelope.time, UTC)
    today = abs(envelope.time - time.time()) < 86400
    fields = " ".join(
        f"{k}={_short(v)}" for k, v in decoded.event.__dict__.items() if v not in (None, "", [], {})
    )
    colour = "red" if envelope.type.startswith(_BAD) or envelope.type.endswith("Failed") else "cyan"
    text = Text()
    text.append(
        f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} " if today else f"{at:%Y-%m-%d %H:%M:%S} ", "dim"
    )
    text.append(f"{envelope.type:<20} ", f"bold {colour}")
    text.append(f"{_short(plain_key(decoded))} ", "green")
    if envelope.project != "default":
        text.append(f"[{_short(envelope.project)}] ", "yellow")
    if envelope.correlation_id:
        text.append(f"run={_short(envelope.correlation_id)} ", "magenta")
    text.append(f"{fields} ")
    text.append(f"{record.topic}/{record.partition}@{record.offset}", "dim")
    return text


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    # One event a line, whatever an agent wrote: control characters would move the cursor.
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
