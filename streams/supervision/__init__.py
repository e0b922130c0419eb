"""One command for all processes: children, their status and metrics, the live display."""
