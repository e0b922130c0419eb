"""What a team declares: its agents, and how each is to be treated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from schemas.errors import ConfigurationError
from streams.fleet.task import Task

Handler = Callable[[Task], Awaitable[str | None]]
"""Takes a task; what it returns is the reply."""


@dataclass(frozen=True)
class HostedAgent:
    """One agent. `attempts`: calls for one task before it is given up; `timeout_s`: of each."""

    id: str
    handle: Handler
    role: str
    version: str
    capabilities: tuple[str, ...]
    models: tuple[str, ...]
    attempts: int
    timeout_s: float


class Fleet:
    """Agents that run together. Hosts of the same `name` share the work; other names work apart."""

    def __init__(self, name: str = "agents") -> None:
        self.name = name
        self.agents: dict[str, HostedAgent] = {}

    def agent(
        self,
        agent_id: str,
        *,
        role: str = "agent",
        version: str = "1",
        capabilities: Sequence[str] = (),
        models: Sequence[str] = (),
        attempts: int = 3,
        timeout_s: float = 300.0,
    ) -> Callable[[Handler], Handler]:
        """Declare an agent by its handler. Raises ConfigurationError where there is one of that id."""

        def declare(handle: Handler) -> Handler:
            if agent_id in self.agents:
                raise ConfigurationError(
                    f"fleet {self.name} has two agents called {agent_id}", hint="give each an id of its own"
                )
            self.agents[agent_id] = HostedAgent(
                agent_id, handle, role, version, tuple(capabilities), tuple(models), attempts, timeout_s
            )
            return handle

        return declare
