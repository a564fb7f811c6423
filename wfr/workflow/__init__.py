"""Workflows: what a director edits on the canvas, its notation, its edits, its execution."""
