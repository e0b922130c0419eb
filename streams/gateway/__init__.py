"""The HTTP door: producing, the query API, the registry door, health and metrics."""
