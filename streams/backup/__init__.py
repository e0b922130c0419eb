"""A data folder in one file, taken while everything runs, and put back (ADR 12).

In order of reading: `moment.py` (files as of one instant), `segments.py` (what of Kafka's files is
needed), `holding.py`, `contents.py` (what is in the file), `taking.py`, `restoring.py`.
"""
