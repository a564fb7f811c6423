"""Sandbox: where code that a model wrote runs."""

from wfr.sandbox.confinement import available
from wfr.sandbox.sandbox import Limits, Result, Sandbox, Status, TestOutcome, Usage

__all__ = ["Limits", "Result", "Sandbox", "Status", "TestOutcome", "Usage", "available"]
