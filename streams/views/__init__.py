"""The process that keeps the views, and what waits for them."""
