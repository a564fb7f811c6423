"""Policies to compare a director with: programs that play the same environment as text."""
