"""Formats: one file per benchmark, from its own rows to tasks."""
