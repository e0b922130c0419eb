"""Clients that are not ours, as docs/events.md invites them."""
