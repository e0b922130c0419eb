"""Structured logs, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from streams.logs import configure
from streams.settings import Settings

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def set_up(tmp_path: Path, **options: Any) -> io.StringIO:
    """Configured logging, and where it writes."""
    stream = io.StringIO()
    configure(Settings(data=tmp_path, **options), "folds", stream)
    return stream


def test_lines_are_json_where_there_is_no_terminal(tmp_path: Path) -> None:
    """Each line has time, level, process and event, and what was said with it."""
    stream = set_up(tmp_path)
    log.info("task.ready", partition=3)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "info", "process": "folds", "event": "task.ready", "partition": 3}


def test_the_correlation_id_is_on_every_line_within(tmp_path: Path) -> None:
    """What is bound to the context is on our lines and on those of libraries."""
    stream = set_up(tmp_path)
    with structlog.contextvars.bound_contextvars(correlation_id="run-1"):
        log.info("ours")
        logging.getLogger("library").warning("theirs %d", 1)
    log.info("after")
    ours, theirs, after = lines(stream)
    assert ours["correlation_id"] == theirs["correlation_id"] == "run-1"
    assert theirs["event"] == "theirs 1"
    assert theirs["logger"] == "library"
    assert "correlation_id" not in after


def test_secrets_never_reach_a_line(tmp_path: Path) -> None:
    """Configured secrets, secret-looking fields, bearer tokens and passwords in URLs are hidden."""
    login = {"kafka": "127.0.0.1:9092", "kafka_security": "SASL_SSL", "kafka_username": "me"}
    stream = set_up(
        tmp_path, api_key=SecretStr("key-of-mine"), kafka_password=SecretStr("pass-of-mine"), **login
    )
    log.warning(
        "tried key-of-mine", url="postgresql://me:hidden-too@host/db", header={"Authorization": "abc-1"}
    )
    log.warning("more", password="abc-2", reply=["Bearer abc-3456789"], input_tokens=7)
    try:
        raise RuntimeError("pass-of-mine was refused")
    except RuntimeError:
        log.exception("broken")
    text = stream.getvalue()
    for secret in ("key-of-mine", "pass-of-mine", "hidden-too", "abc-1", "abc-2", "abc-3456789"):
        assert secret not in text
    assert lines(stream)[1]["input_tokens"] == 7
    assert "RuntimeError: *** was refused" in lines(stream)[2]["exception"]


def test_the_level_is_that_of_the_settings(tmp_path: Path) -> None:
    """Debug lines are there when asked for only; chatty libraries are quiet below WARNING."""
    stream = set_up(tmp_path)
    log.debug("not shown")
    logging.getLogger("aiokafka").info("not shown")
    assert stream.getvalue() == ""
    stream = set_up(tmp_path, log_level="DEBUG")
    log.debug("shown")
    assert len(lines(stream)) == 1


def test_console_lines_are_for_a_person(tmp_path: Path) -> None:
    """With console format a line is plain text, and redacted all the same."""
    stream = set_up(tmp_path, log_format="console", api_key=SecretStr("key-of-mine"))
    log.info("hello", key="key-of-mine")
    assert "hello" in stream.getvalue()
    assert "key=***" in stream.getvalue()


def test_a_library_that_repeats_itself_is_heard_once(tmp_path: Path) -> None:
    """A library's line for each failed attempt is written once; ours, and tracebacks, always."""
    stream = io.StringIO()
    configure(Settings(data=tmp_path, log_format="json"), "folds", stream)
    for attempt in range(5):
        logging.getLogger("aiokafka").error("Unable connect to node %s", attempt)
        logging.getLogger("headwater").warning("ours")
        logging.getLogger("aiokafka").error(
            "Group Coordinator Request failed: %s", "GroupCoordinatorNotAvailable"
        )
    said = stream.getvalue()
    assert said.count("Unable connect") == 1
    assert said.count("ours") == 5
    assert "Coordinator" not in said
