"""Operators that are programs: a declaration, and what makes them out of a run's services."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from wfr.backends.base import Backend
from wfr.operators.base import NodeOperator, Operator, OperatorSpec
from wfr.operators.code_runner import CodeRunner
from wfr.operators.origin import calling_line


class CodedOperator(Operator, NodeOperator, Protocol):
    """A tool and a node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Services:
    """What operators may use: the search index, the sandbox, the backend."""

    search: CodedOperator
    sandbox: CodeRunner
    backend: Backend


@dataclasses.dataclass(frozen=True, slots=True)
class Coded:
    """A declared operator that is a program.

    Attributes:
        make: the operator, once per process; it is called and run by many episodes at once.
        where: file and line of this declaration.
    """

    spec: OperatorSpec
    make: Callable[[Services], CodedOperator]
    where: str = dataclasses.field(default_factory=lambda: calling_line(2), compare=False)
