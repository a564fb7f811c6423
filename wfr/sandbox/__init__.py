"""Sandbox: where code that a model wrote runs."""

from wfr.sandbox.confinement import available
from wfr.sandbox.sandbox import Result, Sandbox, Status

__all__ = ["Result", "Sandbox", "Status", "available"]
