"""How the runner folds a partition: tasks over a log, in Kafka or in memory."""
