"""Structured logs: one line an event, for a person at a terminal or as JSON, never with a secret.

Whatever is bound with `structlog.contextvars.bound_contextvars(correlation_id=…)` is on every line
logged within, so that one correlation id leads from door to view.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, TextIO

import orjson
import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from streams.settings import Settings

log = structlog.get_logger()

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(?i)(^|[_-])(password|passwd|secret|authorization|cookie|(api|admin|snapshot)[_-]?key|(access|auth)[_-]?token)s?$"
)
_SECRET_TEXT = re.compile(
    r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|\bhw_[0-9a-f]{12}_[\w-]{43}"
)
# These log every heartbeat, rebalance and retry at INFO; what matters of it our own code says.
_SELDOM_S = 30.0
_LOUD = ("aiokafka", "kafka", "httpx", "httpx2", "httpcore", "asyncio", "uvicorn.access", "urllib3", "jgo")


class _Seldom(logging.Filter):
    """Lets a library's sentence through once in half a minute: aiokafka says each failed attempt, ten a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it has not been said lately; all of our own is let through."""
        if not record.name.startswith("aiokafka") or record.exc_info:
            return True
        # Raised at every start, until the broker has made its own topics.
        if "GroupCoordinatorNotAvailable" in record.getMessage():
            return False
        sentence = f"{record.name} {record.msg}"
        if record.created - self._said.get(sentence, float("-inf")) < _SELDOM_S:
            return False
        self._said[sentence] = record.created
        return True


class _Redact:
    """Hides values by the name of their field, by their looks, and configured secrets wherever they are."""

    def __init__(self, settings: Settings) -> None:
        values = (getattr(settings, name) for name in type(settings).model_fields)
        secrets = (v.get_secret_value() for v in values if isinstance(v, SecretStr))
        self._known = [s for s in secrets if s]

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {k: HIDDEN if _SECRET_NAME.search(k) else self._clean(v) for k, v in event.items()}

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._known:
                value = value.replace(secret, HIDDEN)
            return _SECRET_TEXT.sub(HIDDEN, value)
        if isinstance(value, dict):
            return {k: HIDDEN if _SECRET_NAME.search(str(k)) else self._clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(v) for v in value]
        return value


def configure(settings: Settings, process: str, stream: TextIO | None = None, *, quiet: bool = False) -> None:
    """Set up structlog and the standard library's logging: both write alike, to `stream` or stderr.

    `log_format` auto is console where that is a terminal, JSON elsewhere. `quiet` leaves out what is
    below WARNING, unless DEBUG is asked for: for commands whose answer is what a person wants to see.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    console = settings.log_format == "console" or (settings.log_format == "auto" and terminal)

    def name_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, pad_event_to=0) if console else _to_json
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # A traceback is made text before redaction, and without locals: both can hold secrets.
                structlog.processors.format_exc_info,
                _Redact(settings),
                render,
            ],
        )
    )
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel("WARNING" if quiet and settings.log_level == "INFO" else settings.log_level)
    for name in _LOUD:
        logging.getLogger(name).setLevel("DEBUG" if settings.log_level == "DEBUG" else "WARNING")
    if quiet and settings.log_level != "DEBUG":
        # It says each attempt; what came of them the command says itself, once.
        logging.getLogger("aiokafka").setLevel("CRITICAL")
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    ordered = {k: event.pop(k) for k in ("timestamp", "level", "process", "event") if k in event}
    return orjson.dumps({**ordered, **event}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
