"""One key's queries leave the database, and the threads that ask it, to others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from projections.access import Caller, QuotaExceeded
from projections.api.door import Door, Question
from projections.api.turns import OPEN, READING
from projections.catalog import views
from projections.position import Position
from projections.store import Reading, Store
from tests.projections.material import store_at

GREEDY = Caller("acme", frozenset({"read"}), "greedy")
MODEST = Caller("acme", frozenset({"read"}), "modest")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    found = store_at(f"sqlite:///{tmp_path / 'views.db'}", views())
    yield found
    found.close()


class Slow:
    """A query that reads until it is told to end, and knows how many did so at once."""

    def __init__(self) -> None:
        self.end, self.full = threading.Event(), threading.Event()
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _: Reading, project: str) -> str:
        with self._counted():
            assert self.end.wait(30)
        return project

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self._now == READING:
                self.full.set()
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


async def never(_: Position, __: str, seconds: float) -> None:
    """A view that does not come to what was asked for."""
    await asyncio.sleep(seconds)


async def test_a_key_with_many_slow_queries_does_not_hold_up_another(store: Store) -> None:
    """Four are answered at once, the others of that key wait; another key is answered meanwhile."""
    door = Door(store, caller=lambda: None, wait_for=never)
    slow = Slow()
    greedy = [asyncio.create_task(door.answer(GREEDY, Question(), ["events"], slow)) for _ in range(OPEN)]
    async with asyncio.timeout(20):
        await asyncio.to_thread(slow.full.wait)
        for _ in range(20):
            answer, _ = await door.answer(MODEST, Question(), ["events"], lambda _, project: project)
            assert answer == "acme"
    slow.end.set()
    await asyncio.gather(*greedy)
    assert slow.most == READING


async def test_too_many_open_questions_are_refused(store: Store) -> None:
    """Also those that wait for freshness count; once they are answered, others are let in again."""
    door = Door(store, caller=lambda: None, wait_for=never)
    late = Question(at_least="e30", deadline_s=0.5)
    waiting = [
        asyncio.create_task(door.answer(GREEDY, late, ["events"], lambda _, project: project))
        for _ in range(OPEN)
    ]
    await asyncio.sleep(0)
    with pytest.raises(QuotaExceeded) as told:
        await door.answer(GREEDY, Question(), ["events"], lambda _, project: project)
    assert told.value.retry_after_s == 1
    await door.answer(MODEST, Question(), ["events"], lambda _, project: project)
    await asyncio.gather(*waiting)
    await door.answer(GREEDY, Question(), ["events"], lambda _, project: project)


async def test_a_query_that_fails_leaves_its_place(store: Store) -> None:
    """Whatever a query raises, the next one is answered."""
    door = Door(store, caller=lambda: None, wait_for=never)

    def fail(_: Reading, __: str) -> str:
        raise KeyError("x")

    for _ in range(2 * OPEN):
        with pytest.raises(KeyError):
            await door.answer(GREEDY, Question(), ["events"], fail)
    await door.answer(GREEDY, Question(), ["events"], lambda _, project: project)
