"""Events to whoever follows them, as they are committed: one reader, and a ring of what it read last."""
