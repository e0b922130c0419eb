"""Duplicates: an event is one if the same (project, source, id) stood shortly before in its partition."""

from __future__ import annotations

from collections import deque

from schemas.envelope import Name

WINDOW = 16_384
"""Offsets that the window spans. It is a function of the log alone: read anew, it comes out the same."""


class Window:
    """Which events stood within the last `span` offsets."""

    def __init__(self, span: int = WINDOW) -> None:
        self.span = span
        self._last: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def seen(self, event: Name, offset: int) -> bool:
        """Whether the event stood there before; notes that it stands at `offset`, too."""
        name = "\x00".join(event)  # a third of a tuple's memory
        horizon = offset - self.span
        order, last = self._order, self._last
        while order and order[0][0] < horizon:
            old, gone = order.popleft()
            if last[gone] == old:
                del last[gone]
        duplicate = name in last
        last[name] = offset
        order.append((offset, name))
        return duplicate
