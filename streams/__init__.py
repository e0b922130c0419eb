"""Settings, broker, producer, runner, gateways and commands: all wiring, all Kafka."""
