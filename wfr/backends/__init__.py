"""Executor backends: who carries out an operator's request."""
