"""Partitions of a log and who works on them: the consumer group, tasks' lives, transactions, dead letters."""
