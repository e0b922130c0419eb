"""The way of an event into the log: batching, retries, backpressure, correlation."""
