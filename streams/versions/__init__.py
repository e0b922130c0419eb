"""Which version of a fold takes what comes: decided once, recorded partition by partition."""
