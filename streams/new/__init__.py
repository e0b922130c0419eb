"""Packages made from templates: a start for a user's own."""
