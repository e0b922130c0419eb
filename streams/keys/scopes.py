"""What a key may do: write to all raw topics or to some, query, administer."""

from __future__ import annotations

from collections.abc import Iterable

from projections.access import ADMIN, READ
from schemas.catalog import raw
from schemas.errors import ConfigurationError

PRODUCE = "produce"
SCOPES = (PRODUCE, READ, ADMIN)
_OF_TOPIC = f"{PRODUCE}:"


def checked(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes in one order, each once. Raises ConfigurationError where one is unknown or makes no sense."""
    wanted = set(scopes)
    topics = [topic.name for topic in raw()]
    allowed = [*SCOPES, *map(produce_to, topics)]
    of_unknown = sorted(s for s in wanted - set(allowed) if s.startswith(_OF_TOPIC))
    if of_unknown:
        raise ConfigurationError(
            f"{', '.join(of_unknown)}: no such raw topic", hint=f"keys may write to {', '.join(topics)}"
        )
    if not wanted or not wanted <= set(allowed):
        raise ConfigurationError(
            f"scopes {', '.join(sorted(wanted)) or 'none'} are not among {', '.join(SCOPES)}, produce:<topic>",
            hint="name at least one of them",
        )
    if PRODUCE in wanted and topics_of(wanted):
        raise ConfigurationError(
            f"{PRODUCE} lets a key write to every raw topic, so produce:<topic> beside it narrows nothing",
            hint=f"leave {PRODUCE} out, or the topics",
        )
    return tuple(scope for scope in allowed if scope in wanted)


def produce_to(topic: str) -> str:
    """The scope of writing to one topic."""
    return f"{_OF_TOPIC}{topic}"


def topics_of(scopes: Iterable[str]) -> list[str]:
    """The topics that scopes name one by one."""
    return sorted(s.removeprefix(_OF_TOPIC) for s in scopes if s.startswith(_OF_TOPIC))
