"""One base for every error: says what happened, to what, what to do, and whether a retry can help."""

from __future__ import annotations

from typing import ClassVar, Literal

Category = Literal["TEMPORARY", "PERMANENT"]


class HeadwaterError(Exception):
    """Base of all errors raised on purpose.

    `category` says whether the same call may succeed later; `hint` says what to do about it.
    """

    category: ClassVar[Category] = "PERMANENT"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def retriable(self) -> bool:
        """True where trying the same again later can help."""
        return self.category == "TEMPORARY"

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class DecodeError(HeadwaterError):
    """A record's bytes are not an event: wrong framing, unknown schema id, or a value out of range."""


class InvalidEvent(HeadwaterError):
    """An event offered by a producer breaks its model: unknown type, wrong or missing field."""


class RecordTooLarge(HeadwaterError):
    """A record is larger than the configured limit; it was refused whole, never truncated."""


class SchemaIncompatible(HeadwaterError):
    """A model changed in a way that earlier records could no longer be read with."""


class ConfigurationError(HeadwaterError):
    """A setting is missing or contradicts what is there."""


class BrokerUnavailable(HeadwaterError):
    """Kafka did not answer within the stated time."""

    category = "TEMPORARY"


class RegistryUnavailable(HeadwaterError):
    """The schema registry did not answer within the stated time."""

    category = "TEMPORARY"


class OffsetOutOfRange(HeadwaterError):
    """A position lies below the start of the log: records that were promised are gone."""


class DeadlineExceeded(HeadwaterError):
    """Something awaited did not come about in time; it may still do so."""

    category = "TEMPORARY"


class DiskFull(HeadwaterError):
    """Less than the reserve is free where the embedded log is kept; nothing was written."""

    category = "TEMPORARY"


class DiskReadOnly(HeadwaterError):
    """The file system that the embedded log is on takes no writes; nothing was written."""

    category = "TEMPORARY"
