"""What was decided about folds' versions: a fold over the topic `headwater.folds`, the same for every reader.

Each record says from which version it starts out, and is void where another was faster. So of two
commands, or of two workers that find nothing decided, one counts, and both see which.
"""

from __future__ import annotations

import msgspec

from schemas.events import FoldCutOver


class Standing(msgspec.Struct, frozen=True):
    """Where a fold stands. `at` is when the newest decision was written, seconds since 1970."""

    base: int
    """The version that took what came before anything was switched."""
    decided: FoldCutOver
    at: float
    proposed: FoldCutOver | None = None
    proposed_at: float = 0.0

    @property
    def version(self) -> int:
        """The version that every partition has, or is to get."""
        return self.decided.to_version

    @property
    def left(self) -> int:
        """The version that was left for an older one, 0 where it was not so."""
        before = self.decided.from_version or 0
        return before if before > self.version else 0


class Plan:
    """The standing of each fold."""

    def __init__(self) -> None:
        self.folds: dict[str, Standing] = {}

    def apply(self, event: FoldCutOver, at: float) -> bool:
        """Take the next record of the topic; whether it counts."""
        before = self.folds.get(event.fold)
        after = self._after(before, event, at)
        if after is None:
            return False
        self.folds[event.fold] = after
        return True

    @staticmethod
    def _after(standing: Standing | None, event: FoldCutOver, at: float) -> Standing | None:
        if standing is None:
            first = event.phase == "decided" and event.from_version is None
            return Standing(event.to_version, event, at) if first else None
        proposed = standing.proposed
        under_way = proposed is not None and proposed.cut_over_id == event.cut_over_id
        starts_here = event.from_version == standing.version
        match event.phase:
            case "proposed" if proposed is None and starts_here:
                return msgspec.structs.replace(standing, proposed=event, proposed_at=at)
            case "decided" if starts_here and (under_way or event.at_once):
                return Standing(standing.base, event, at)
            case "cancelled" if under_way:
                return msgspec.structs.replace(standing, proposed=None, proposed_at=0.0)
        return None
