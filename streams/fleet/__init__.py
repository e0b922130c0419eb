"""The host for agents written in Python: `Fleet` collects them, `headwater fleet run MODULE` runs them.

from streams.fleet import Fleet, Task

fleet = Fleet()

@fleet.agent("echo")
async def echo(task: Task) -> str:
return task.content
"""

from streams.fleet.agents import Fleet, HostedAgent
from streams.fleet.task import Task

__all__ = ["Fleet", "HostedAgent", "Task"]
