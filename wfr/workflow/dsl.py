"""Read the notation of a workflow; its grammar stands in `notation`."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import NoReturn

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import (
    NODE_ID,
    OPERATOR_NAME,
    Block,
    Conditional,
    Loop,
    Node,
    OperatorNode,
    Parallel,
    map_nodes,
    walk,
)
from wfr.workflow.notation import DONE, UNTIL
from wfr.workflow.rules import Limits

_TOKEN = re.compile(r"\s*(->|[\[\](){},?:*;@]|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|\S|\Z)")
_JSON = json.JSONDecoder()
_BRACKETS = 64
_LIMITS = Limits()


def parse(text: str, limits: Limits = _LIMITS) -> Workflow:
    """The workflow that a text describes; linear in its length.

    Of the limits only those on operators and depth count here; `rules.check` looks at the rest.

    Raises:
        WorkflowError: with the code, what was expected, and where; nothing else, whatever the text.
    """
    return _Reader(text, limits).workflow()


class _Reader:
    """A recursive-descent reader that looks one token ahead.

    Nodes without an id carry a temporary one, `?N`, until all ids of the text are known.
    """

    def __init__(self, text: str, limits: Limits) -> None:
        self._text = text
        self._limits = limits
        self._nodes = 0
        self._open = 0
        self._unnamed = 0
        self._at = 0
        self._token = ""
        self._end = 0
        self._next()

    def workflow(self) -> Workflow:
        block: Block = ()
        if self._token not in ("", ";"):
            block = self._sequence()
        counter = None
        if self._token == ";":
            self._next()
            self._expect("next")
            counter = self._number()
        if self._token:
            self._fail("'->' or the end")
        workflow = _numbered(block, counter)
        if workflow.depth > self._limits.max_depth:
            message = f"structures are nested over {self._limits.max_depth} deep"
            raise WorkflowError(Code.TOO_DEEP, message)
        return workflow

    def _sequence(self) -> Block:
        self._open += 1
        if self._open > _BRACKETS:
            self._fail(code=Code.TOO_DEEP, message=f"brackets are nested over {_BRACKETS} deep")
        block = self._item()
        while self._token == "->":
            self._next()
            block += self._item()
        self._open -= 1
        return block

    def _item(self) -> Block:
        offset, node_id = self._at, self._id()
        if OPERATOR_NAME.fullmatch(self._token):
            operator = self._operator()
            if self._token == "?":
                return (self._conditional(operator, node_id),)
            block: Block = (operator,)
        else:
            block = self._structure(node_id)
        if node_id and not self._names(block, node_id):
            self._fail(offset=offset, message=f"{node_id} stands before no structure")
        return block

    @staticmethod
    def _names(block: Block, node_id: str) -> bool:
        return len(block) == 1 and block[0].id == node_id

    def _structure(self, node_id: str) -> Block:
        if self._token == "[":
            return (self._parallel(node_id),)
        if self._token != "(":
            self._fail("an operator, '[' or '('")
        self._next()
        body = self._sequence()
        self._expect(")")
        if self._token != "*":
            return body
        self._next()
        loop_id = node_id or self._fresh()
        count = self._number()
        until = None
        if self._token == UNTIL:
            self._next()
            until = self._operator()
        return (Loop(loop_id, body, count, until),)

    def _parallel(self, node_id: str) -> Parallel:
        parallel_id = node_id or self._fresh()
        self._expect("[")
        branches = [self._sequence()]
        while self._token == ",":
            self._next()
            branches.append(self._sequence())
        self._expect("]")
        return Parallel(parallel_id, tuple(branches))

    def _conditional(self, condition: OperatorNode, node_id: str) -> Conditional:
        self._expect("?")
        conditional_id = node_id or self._fresh()
        on_true = self._arm()
        on_false: Block = ()
        if self._token == ":":
            self._next()
            on_false = self._arm()
        return Conditional(conditional_id, condition, on_true, on_false)

    def _arm(self) -> Block:
        if self._token == DONE:
            self._next()
            return ()
        if OPERATOR_NAME.fullmatch(self._token):
            return (self._operator(),)
        offset, node_id = self._at, self._id()
        block = self._structure(node_id)
        if node_id and not self._names(block, node_id):
            self._fail(offset=offset, message=f"{node_id} stands before no structure")
        return block

    def _operator(self) -> OperatorNode:
        name = self._token
        if not OPERATOR_NAME.fullmatch(name) or name in (DONE, UNTIL):
            self._fail("an operator")
        self._nodes += 1
        if self._nodes > self._limits.max_nodes:
            message = f"there are more than {self._limits.max_nodes} operators"
            self._fail(code=Code.TOO_MANY_NODES, message=message)
        self._next()
        node_id = self._id() or self._fresh()
        return OperatorNode(node_id, name, inputs=self._inputs(), prompt=self._prompt())

    def _inputs(self) -> tuple[str, ...]:
        if self._token != "(":
            return ()
        found: list[str] = []
        while not found or self._token == ",":
            self._next()
            found.append(self._node_id())
        self._expect(")")
        return tuple(found)

    def _prompt(self) -> str:
        if self._token != "{":
            return ""
        self._next()
        if self._token != '"':
            self._fail("a prompt in double quotes")
        try:
            prompt, self._end = _JSON.raw_decode(self._text, self._at)
        except ValueError as error:
            self._fail(message=f"the prompt is not a JSON string: {str(error)[:80]}")
        self._next()
        self._expect("}")
        return str(prompt)

    def _id(self) -> str:
        if self._token != "@":
            return ""
        self._next()
        return self._node_id()

    def _node_id(self) -> str:
        node_id = self._token
        if not NODE_ID.fullmatch(node_id):
            self._fail("an id such as node_3")
        self._next()
        return node_id

    def _number(self) -> int:
        if not re.fullmatch("[0-9]{1,9}", self._token):
            self._fail("a number")
        number = int(self._token)
        self._next()
        return number

    def _fresh(self) -> str:
        self._unnamed += 1
        return f"?{self._unnamed}"

    def _expect(self, token: str) -> None:
        if self._token != token:
            self._fail(repr(token))
        self._next()

    def _next(self) -> None:
        match = _TOKEN.match(self._text, self._end)
        assert match is not None  # the pattern ends in anything or the end
        self._token, self._at, self._end = match[1], match.start(1), match.end()

    def _fail(
        self,
        expected: str = "",
        *,
        code: Code = Code.SYNTAX,
        message: str = "",
        offset: int | None = None,
    ) -> NoReturn:
        found = repr(self._token[:20]) if self._token else "the end"
        text = message or f"expected {expected}, found {found}"
        raise WorkflowError(code, text, self._at if offset is None else offset)


def _numbered(block: Block, counter: int | None) -> Workflow:
    """Give the nodes without an id, in document order, the numbers above all that are named."""
    ids = [node.id for node in walk(block)]
    number = max((int(i.removeprefix("node_")) for i in ids if i[0] != "?"), default=0)
    names: dict[str, str] = {}
    for node_id in ids:
        if node_id[0] == "?":
            number += 1
            names[node_id] = f"node_{number}"

    def name(node: Node) -> Node:
        return dataclasses.replace(node, id=names.get(node.id, node.id))

    return Workflow(map_nodes(block, name), number + 1 if counter is None else counter)
