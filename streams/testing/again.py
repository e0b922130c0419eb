"""`python -m streams.testing.again`: what an undisturbed run comes to in this process; for `checking`."""

from __future__ import annotations

import pickle
import sys

from streams.testing.playing import Play


def main() -> None:
    """Play what standard input says, and write what remains to standard output."""
    folds, start, steps = pickle.load(sys.stdin.buffer)  # noqa: S301 - the process that started this wrote it
    play = Play(folds, start)
    play.steps(steps)
    sys.stdout.buffer.write(pickle.dumps(play.remains()))


if __name__ == "__main__":
    main()
