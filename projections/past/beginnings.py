"""Candidates for a list that has first what began last.

When a key began is the least of what was said, and late words still move it: the order at a cut is not that
of the live table. But it goes by values that a place's history had at the cut, or that the tail has; both
are known in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from sqlalchemy import and_, case, false, or_, select, tuple_

from projections.history import History
from projections.past.listing import Find, Looked
from projections.past.state import State

Pair = tuple[float, str]
"""When a key may have begun, and its id."""


def by_beginning(state: State, project: str, name: str, since: float, until: float) -> Find:
    """For a list of the table `name` by its history's order, of what began from `since` up to before `until`.

    The view's table `reach` knows until when anything can have begun.
    """
    reach = state.of_table("reach", [(project,)]).get((project,), {}).get("last_seen", -inf)

    def find(behind: Sequence[Any] | None, most: int) -> Looked:
        if reach == -inf:
            return Looked(0, None)
        above = None if behind is None else (behind[0], behind[1])
        said = _said(state, project, name, above, (since, until, reach), most)
        new = state.tail.before(project, above, since, until, most)
        # Below where the one stopped the other may not go on yet.
        stops = [pairs[-1] for pairs in ([pair for pair, _ in said], new) if len(pairs) == most]
        stop = max(stops, default=None)
        pairs = {pair for pair, was_so in said if was_so or pair == stop} | set(new)
        wanted = {pair for pair in pairs if stop is None or pair >= stop}
        rows = state.rows({(project, id_) for _, id_ in wanted}, (name,))
        order = state.live.tables[state.view.name][name].info["history"].order
        for begun, id_ in wanted:
            key = project, id_
            if rows[key].get(name, {}).get(key, {}).get(order) == begun:
                state.show([rows[key]])
        return Looked(len(said) + len(new), stop)

    return find


def _said(
    state: State, project: str, name: str, above: Pair | None, bounds: tuple[float, float, float], most: int
) -> list[tuple[Pair, bool]]:
    """What places said, the last first, and whether it was so at the cut."""
    history: History = state.live.tables[state.view.name][name].info["history"]
    h, (since, until, reach) = history.table.c, bounds
    begun, id_ = h[history.order], h[history.keys[1]]
    before = [
        and_(h.at_topic == topic, h.at_partition == partition, h.at_bucket < below)
        for (topic, partition), below in state.below.items()
    ]
    statement = select(begun, id_, case((or_(false(), *before), 1), else_=0)).where(h.project == project)
    for bound, condition in ((since, begun >= since), (until, begun < until), (reach, begun <= reach)):
        if abs(bound) < inf:
            statement = statement.where(condition)
    if above is not None:
        statement = statement.where(tuple_(begun, id_) < tuple_(*above))
    statement = statement.where(begun.is_not(None)).order_by(begun.desc(), id_.desc()).limit(most)
    return [((row[0], row[1]), bool(row[2])) for row in state.live.connection.execute(statement)]
