"""Preflight: are installation, machine and director fit for this run? Asked before it starts."""

from cluster.preflight.check import Check, explain
from cluster.preflight.survey import checks

__all__ = ["Check", "checks", "explain"]
