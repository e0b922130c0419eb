"""`python -m streams` is the command `headwater`; the supervisor starts its processes so."""

from streams.cli import main

main()
