"""Who is in the simulated fleet: agents, roles, models, tools, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

VERSION: Final = "1.4.0"


@dataclass(frozen=True)
class Model:
    """A model: prices in US dollars per million tokens, its median latency in ms."""

    name: str
    provider: str
    input_price: float
    output_price: float
    median_ms: float


@dataclass(frozen=True)
class Tool:
    """A tool: its median latency in ms, and a pair of sample arguments (JSON) and result."""

    name: str
    median_ms: float
    arguments: str
    result: str
    error_type: str


@dataclass(frozen=True)
class Role:
    """What an agent does: its model, how often it takes each tool, its tasks and its words."""

    name: str
    model: Model
    tools: Mapping[str, float]
    tasks: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Agent:
    """One agent of the fleet."""

    id: str
    role: Role


LARGE: Final = Model("claude-sonnet-4-5", "anthropic", 3.0, 15.0, 700.0)
SMALL: Final = Model("gpt-4o-mini", "openai", 0.15, 0.60, 450.0)
TOOLS: Final[Mapping[str, Tool]] = MappingProxyType(
    {
        t.name: t
        for t in (
            Tool("web_search", 240.0, '{"query": "{topic}"}', "6 results for {topic}", "timeout"),
            Tool("run_code", 380.0, '{"code": "analyse({topic!r})"}', "exit code 0", "runtime_error"),
            Tool("query_database", 90.0, '{"table": "orders", "about": "{topic}"}', "42 rows", "deadlock"),
        )
    }
)
TOPICS: Final = (
    "refund policy",
    "invoice totals",
    "login failures",
    "shipping delays",
    "test coverage",
    "quarterly churn",
    "cache misses",
    "contract terms",
    "API limits",
    "search ranking",
)


def _role(name: str, model: Model, weights: tuple[float, float, float], tasks: str, words: str) -> Role:
    tools = dict(zip(TOOLS, weights, strict=True))
    return Role(name, model, MappingProxyType(tools), tuple(tasks.split(";")), tuple(words.split(";")))


ROLES: Final = (
    _role(
        "researcher", LARGE, (0.5, 0.2, 0.3),
        "find out about {topic};compare sources on {topic}",
        "I found three sources on {topic};sources on {topic} disagree, digging deeper",
    ),
    _role(
        "coder", LARGE, (0.2, 0.5, 0.3),
        "write a script for {topic};fix the bug in {topic}",
        "the script for {topic} passes its tests;I pushed a fix for {topic}",
    ),
    _role(
        "reviewer", SMALL, (0.3, 0.4, 0.3),
        "review the change to {topic}",
        "the change to {topic} looks right;please cover {topic} with a test",
    ),
    _role(
        "planner", SMALL, (0.4, 0.2, 0.4),
        "plan the work on {topic}",
        "next we look at {topic};{topic} is done, moving on",
    ),
    _role(
        "support", SMALL, (0.3, 0.2, 0.5),
        "answer a customer about {topic}",
        "a customer asks about {topic};the question on {topic} is answered",
    ),
)  # fmt: skip
_NAMES: Final = (
    "sofia", "noah", "mia", "liam", "emma", "lucas", "ada", "hugo",
    "nora", "felix", "clara", "oscar", "ines", "jonas", "lena", "emil",
)  # fmt: skip


def roster(agents: int) -> tuple[Agent, ...]:
    """The fleet's agents: names and roles in a fixed order, so that a restart brings back the same."""
    rounds = ((n // len(_NAMES), n % len(_NAMES), ROLES[n % len(ROLES)]) for n in range(agents))
    return tuple(Agent(_NAMES[i] + (f"-{r + 1}" if r else ""), role) for r, i, role in rounds)
