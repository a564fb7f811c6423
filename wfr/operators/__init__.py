"""Operators: what a director can call."""
