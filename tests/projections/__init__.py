"""Tests of the views and the query API; SQLite is real, Kafka is not needed."""
