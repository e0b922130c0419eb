"""Reads files line by line: JSON lines and CSV; a line that makes no sense becomes a bad record."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
from pydantic import ValidationError

from schemas.codec import explain
from schemas.envelope import parse_time
from schemas.errors import HeadwaterError
from streams.replay.record import BadRecord, Item, NothingToReplay, Recorded


class BadValue(ValueError):
    """A record's field makes no sense; the text says which and why."""


class Row(NamedTuple):
    """One CSV line: its number (from 1) and its values in the order of the columns asked for."""

    line: int
    values: tuple[str, ...]


def json_lines(file: Path, build: Callable[[int, bytes], Iterable[Recorded]]) -> Iterator[Item]:
    """The events of a file with one JSON value a line; empty lines are passed over."""
    last = float("-inf")
    for line, text in numbered(file):
        for item in attempt(file, line, last, build, text):
            last = item.time
            yield item


def numbered(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers from 1. Raises NothingToReplay."""
    with opened(file) as lines:
        for line, text in enumerate(lines, 1):
            if text.strip():
                yield line, text


def csv_rows(
    file: Path, columns: tuple[str, ...], build: Callable[[int, tuple[str, ...]], Iterable[Recorded]]
) -> Iterator[Item]:
    """The events of a CSV file with a header that has `columns`, in any order and among others."""
    last = float("-inf")
    for row in _csv_rows(file, columns):
        if isinstance(row, BadRecord):
            yield row._replace(time=last)
            continue
        for item in attempt(file, row.line, last, build, row.values):
            last = item.time
            yield item


def attempt(
    file: Path, line: int, last: float, build: Callable[[int, Any], Iterable[Recorded]], value: Any
) -> list[Item]:
    """What `build` makes of one record, whole or not at all; a bad record at time `last` where it cannot."""
    try:
        return list(build(line, value))
    except ValidationError as error:
        reason = f"{error.title}: {explain(error)}"
    except HeadwaterError as error:
        reason = error.message
    except (msgspec.MsgspecError, BadValue, UnicodeError) as error:
        reason = str(error)
    except RecursionError:
        reason = "nested too deep"
    return [BadRecord(file, line, reason, last)]


def number(name: str, text: str) -> float:
    """A finite number. Raises BadValue naming the field; what Python takes beyond that is refused."""
    try:
        value = float(text)
    except ValueError:
        raise BadValue(f"{name}: {text!r} is not a number") from None
    if not -1.8e308 < value < 1.8e308 or "_" in text:
        raise BadValue(f"{name}: {text!r} is not a finite number")
    return value


def count(name: str, text: str) -> int:
    """A whole number from 0. Raises BadValue naming the field."""
    if not (text.isascii() and text.isdigit()):
        raise BadValue(f"{name}: {text!r} is not a whole number from 0")
    return int(text)


def moment(name: str, text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time, UTC where it says no zone. Raises BadValue naming the field."""
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise BadValue(f"{name}: {text!r} is not a time") from None


def opened(file: Path) -> BinaryIO:
    """The file, open for reading bytes. Raises NothingToReplay."""
    try:
        return file.open("rb")
    except OSError as error:
        raise NothingToReplay(
            f"{file} cannot be read: {error.strerror}", hint="give a file that you may read"
        ) from error


def _csv_rows(file: Path, columns: tuple[str, ...]) -> Iterator[Row | BadRecord]:
    with opened(file) as lines:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the reading.
        reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in lines), strict=True)
        header = [name.removeprefix("\ufeff") for name in next(reader, [])]
        missing = [c for c in columns if c not in header]
        if missing:
            yield BadRecord(file, 1, f"the header has no column {', '.join(missing)}", 0.0)
            return
        at = [header.index(c) for c in columns]
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield BadRecord(file, first, f"not readable as CSV: {error}", 0.0)
                continue
            if row is None:
                return
            if len(row) != len(header):
                if row:
                    yield BadRecord(file, first, f"{len(row)} fields, the header has {len(header)}", 0.0)
                continue
            values = tuple(row[i] for i in at)
            if not _is_text(values):
                yield BadRecord(file, first, "bytes that are not UTF-8", 0.0)
                continue
            yield Row(first, values)


def _is_text(values: tuple[str, ...]) -> bool:
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True
