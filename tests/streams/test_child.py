"""One supervised child: go, restart, stop, logs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from streams.settings import Settings
from streams.supervision.child import Child, rotate
from streams.supervision.status import is_alive

WORKS = "import os, time; os.read(0, 1); print('went', flush=True); time.sleep(60)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""


class Said(list[str]):
    """What a child's supervisor would show."""

    def __call__(self, level: str, sentence: str) -> None:
        self.append(f"{level}: {sentence}")


def child(tmp_path: Path, code: str) -> tuple[Child, Said]:
    """A child that runs `code`, and what is said of it."""
    said = Said()
    return Child(Settings(data=tmp_path), "demo", said, (sys.executable, "-c", code)), said


async def until(condition: object, timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    assert callable(condition)
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.02)


async def test_it_waits_until_it_is_told_to_go(tmp_path: Path) -> None:
    """Before `go` a child stands still, after it it works; its output is in its log."""
    demo, _ = child(tmp_path, WORKS)
    await demo.start()
    await asyncio.sleep(0.3)
    assert demo.log_path.read_text() == ""
    demo.go()
    await until(lambda: "went" in demo.log_path.read_text())
    demo.terminate()
    assert await demo.ended(5)
    assert demo.state == "stopped"


async def test_a_crashed_child_is_started_again_and_goes_at_once(tmp_path: Path) -> None:
    """After SIGKILL there is a new process that works, and a line that says what happened."""
    demo, said = child(tmp_path, WORKS)
    await demo.start()
    demo.go()
    await until(lambda: "went" in demo.log_path.read_text())
    first = demo.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: demo.log_path.read_text().count("went") == 2)
    assert demo.pid not in (None, first)
    assert demo.restarts == 1
    assert any("demo ended by SIGKILL" in line and "starting it again in 0.5 s" in line for line in said)
    demo.terminate()
    assert await demo.ended(5)


async def test_restarts_come_ever_more_slowly(tmp_path: Path) -> None:
    """A child that dies at once is tried after 0.5 s, then 1 s, then 2 s."""
    demo, said = child(tmp_path, "raise SystemExit(3)")
    await demo.start()
    await until(lambda: len([s for s in said if "ended" in s]) == 3)
    demo.terminate()
    assert await demo.ended(1)
    waits = [s.partition("again in ")[2][:3] for s in said if "ended with code 3" in s]
    assert waits == ["0.5", "1.0", "2.0"]


async def test_what_does_not_stop_is_killed(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is still there after the wait, and gone after kill."""
    demo, _ = child(tmp_path, STUBBORN)
    await demo.start()
    await until(lambda: "up" in demo.log_path.read_text())
    demo.terminate()
    assert not await demo.ended(0.3)
    demo.kill()
    assert await demo.ended(5)
    assert demo.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """When the supervisor is killed, even a child that reads no input and ignores SIGTERM ends."""
    command = (sys.executable, "-c", STUBBORN)
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from streams.supervision.child import Child; from streams.settings import Settings\n"
        "async def main():\n"
        f"    demo = Child(Settings(data={str(tmp_path)!r}), 'demo', print, {command!r})\n"
        "    await demo.start(); print(demo.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert is_alive(pid, None)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(pid, None), 3)


def test_logs_are_rotated_by_size(tmp_path: Path) -> None:
    """Above the limit a log moves to .1, .1 to .2, and what is too old goes."""
    path = tmp_path / "logs" / "x.log"
    rotate(path, limit=10, kept=2)
    for number in range(4):
        path.write_text(f"{number}" * 20)
        rotate(path, limit=10, kept=2)
    assert not path.exists()
    assert path.with_name("x.log.1").read_text() == "3" * 20
    assert path.with_name("x.log.2").read_text() == "2" * 20
    assert not path.with_name("x.log.3").exists()
    path.write_text("small")
    rotate(path, limit=10, kept=2)
    assert path.read_text() == "small"
