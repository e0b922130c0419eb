"""Folds: deterministic processors, one idea a file; no I/O, no clock, no randomness."""
