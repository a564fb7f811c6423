"""Evaluation: predictions, honest intervals, comparisons, tables, and policies to compare with."""
