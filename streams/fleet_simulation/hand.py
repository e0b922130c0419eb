"""One hand of an agent: run after run, each a few steps of thinking, using a tool and saying something."""

from __future__ import annotations

import math
from collections.abc import Generator
from random import Random
from typing import Final, Protocol, TypeVar

from schemas import events as e
from streams.fleet_simulation.conditions import Conditions, activity, slowness
from streams.fleet_simulation.pace import MESSAGE_SHARE, STEP_S, STEPS_PER_RUN, TOOL_SHARE, Pace
from streams.fleet_simulation.roster import TOOLS, TOPICS, Agent

T = TypeVar("T")
Doing = Generator[float, None, T]
"""Yields how long it sleeps, seconds; returns what came of it."""

ATTEMPTS: Final = 3
"""Calls of a model before a run is given up."""
TOOL_FAILURES: Final = 3
"""Failed tool calls from which a run counts as a failure."""
SUCCESS: Final = 0.97
BACKOFF_S: Final = (0.3, 0.8)
REFUSAL_MS: Final = 120.0
"""Median time in which a model that does not answer says so."""
OUTPUT_TOKENS: Final = 120.0
FIRST_PROMPT_TOKENS: Final = 400
STEP_TOKENS: Final = 180


class World(Protocol):
    """What a hand needs of its fleet."""

    now: float
    random: Random
    conditions: Conditions
    pace: Pace
    agents: tuple[Agent, ...]
    open_runs: dict[str, str]

    def emit(self, event: e.Event, run_id: str | None = None, cause: str | None = None) -> str:
        """The event happens now; returns its id."""

    def new_id(self) -> str:
        """A fresh id."""


class Hand:
    """Does one run at a time for its agent. The events of a run are a chain, each caused by the last."""

    def __init__(self, world: World, agent: Agent) -> None:
        self._world = world
        self._agent = agent
        self._run_id = ""
        self._topic = ""
        self._cause: str | None = None

    def work(self) -> Doing[None]:
        """Without end."""
        yield self._world.random.uniform(0.0, self._world.pace.cycle_s)
        while True:
            yield from self._run()

    def _run(self) -> Doing[None]:
        world, agent, random = self._world, self._agent, self._world.random
        self._run_id, self._cause = f"run-{world.new_id()}", None
        self._topic = random.choice(TOPICS)
        task = random.choice(agent.role.tasks).replace("{topic}", self._topic)
        world.open_runs[self._run_id] = agent.id
        self._emit(e.RunStarted(run_id=self._run_id, agent_id=agent.id, task=task))
        failures, answered = 0, True
        for step in range(random.randint(*STEPS_PER_RUN)):
            answered = yield from self._think(step)
            if not answered:
                break
            if random.random() < TOOL_SHARE:
                failures += yield from self._use_tool()
            if random.random() < MESSAGE_SHARE:
                self._say()
            yield self._rest_s()
        self._finish(failures, answered)
        if not answered:
            yield self._rest_s()

    def _finish(self, failures: int, answered: bool) -> None:
        if not answered:
            reason = "the model did not answer"
        elif failures >= TOOL_FAILURES:
            reason = f"{failures} tool calls failed"
        elif self._world.random.random() >= SUCCESS:
            reason = "wrong result"
        else:
            reason = ""
        del self._world.open_runs[self._run_id]
        self._emit(
            e.RunFinished(
                run_id=self._run_id,
                agent_id=self._agent.id,
                outcome="failure" if reason else "success",
                reason=reason,
            )
        )

    def _think(self, step: int) -> Doing[bool]:
        """Ask the model, more than once where it does not answer; returns whether it did."""
        for _ in range(ATTEMPTS):
            answered = yield from self._ask(step)
            if answered:
                return True
            yield self._world.random.uniform(*BACKOFF_S)
        return False

    def _ask(self, step: int) -> Doing[bool]:
        world, model = self._world, self._agent.role.model
        component, call_id = f"model:{model.name}", f"llm-{world.new_id()}"
        common = {
            "agent_id": self._agent.id,
            "call_id": call_id,
            "provider_name": model.provider,
            "request_model": model.name,
            "conversation_id": self._run_id,
        }
        self._emit(e.LlmCallRequested(**common))
        error = world.conditions.model_fails(component, world.now)
        median_ms = REFUSAL_MS if error else model.median_ms
        latency_ms = round(world.conditions.latency_ms(component, median_ms, world.now), 3)
        yield latency_ms / 1000
        if error:
            message = f"{model.name}: {error.replace('_', ' ')}"
            self._emit(
                e.LlmCallFailed(**common, error_type=error, error_message=message, latency_ms=latency_ms)
            )
            self._report(component, error, message)
            return False
        input_tokens = FIRST_PROMPT_TOKENS + STEP_TOKENS * step
        output_tokens = max(1, round(world.random.lognormvariate(math.log(OUTPUT_TOKENS), 0.4)))
        cost_usd = (input_tokens * model.input_price + output_tokens * model.output_price) / 1e6
        self._emit(
            e.LlmCallCompleted(
                **common,
                response_model=model.name,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_usd=round(cost_usd, 9),
                latency_ms=latency_ms,
                finish_reason="stop",
            )
        )
        return True

    def _use_tool(self) -> Doing[int]:
        """Call a tool once; returns 1 where it failed."""
        world, weights = self._world, self._agent.role.tools
        tool = TOOLS[world.random.choices(tuple(weights), tuple(weights.values()))[0]]
        component = f"tool:{tool.name}"
        common = {
            "agent_id": self._agent.id,
            "tool_name": tool.name,
            "call_id": f"tool-{world.new_id()}",
            "conversation_id": self._run_id,
        }
        self._emit(e.ToolCallRequested(**common, arguments=tool.arguments.replace("{topic}", self._topic)))
        fails = world.conditions.tool_fails(component, world.now)
        latency_ms = round(world.conditions.latency_ms(component, tool.median_ms, world.now), 3)
        yield latency_ms / 1000
        if not fails:
            result = tool.result.replace("{topic}", self._topic)
            self._emit(e.ToolCallCompleted(**common, result=result, latency_ms=latency_ms))
            return 0
        message = f"{tool.name}: {tool.error_type.replace('_', ' ')}"
        self._emit(
            e.ToolCallFailed(
                **common, error_type=tool.error_type, error_message=message, latency_ms=latency_ms
            )
        )
        self._report(component, tool.error_type, message)
        return 1

    def _say(self) -> None:
        random, agent = self._world.random, self._agent
        content = random.choice(agent.role.words).replace("{topic}", self._topic)
        others = [a.id for a in self._world.agents if a is not agent]
        self._emit(
            e.MessagePosted(
                agent_id=agent.id,
                role="agent",
                content=content,
                recipient_id=random.choice(others) if others else None,
                conversation_id=self._run_id,
            )
        )

    def _report(self, component: str, error_type: str, message: str) -> None:
        self._emit(
            e.ErrorReported(
                component=component, error_type=error_type, message=message, agent_id=self._agent.id
            )
        )

    def _rest_s(self) -> float:
        """Until the next step: shorter at busy times, twice as long where the agent has too much to do."""
        world = self._world
        overload = 2.0 if world.conditions.overload(f"agent:{self._agent.id}", world.now) else 1.0
        rest_s = world.pace.cycle_s / activity(world.now) - STEP_S * slowness(world.now)
        return world.random.uniform(0.5, 1.5) * max(0.0, rest_s) * overload

    def _emit(self, event: e.Event) -> None:
        self._cause = self._world.emit(event, self._run_id, self._cause)
