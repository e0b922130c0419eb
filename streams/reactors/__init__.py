"""Reactors act on the outside world, and record what came of it."""
