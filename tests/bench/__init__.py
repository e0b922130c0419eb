"""The benchmarks: `python -m tests.bench [name...]`, figures as JSON on stdout, progress on stderr."""
