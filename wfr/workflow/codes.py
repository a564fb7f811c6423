"""Why a turn, an edit or a graph is refused: the reason codes that feedback carries."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """A reason. Those of the first part concern a turn's text, the others the graph."""

    TOO_LONG = "too_long"
    """The turn is over the length that is read."""
    EMPTY = "empty"
    """The turn is blank."""
    THINK_ONLY = "think_only"
    """The turn is a thought without an edit."""
    NO_ACTION = "no_action"
    """There is no `<action>`."""
    UNKNOWN_ACTION = "unknown_action"
    """The action is none of the verbs."""
    UNKNOWN_STRUCTURE = "unknown_structure"
    """The structure is none of parallel, conditional, loop."""
    SEVERAL_ACTIONS = "several_actions"
    """There is more than one action."""
    MISSING_TAG = "missing_tag"
    """The action lacks a tag that it needs."""
    BAD_VALUE = "bad_value"
    """A value that is no number where one is needed, or holds a bracket."""
    DUPLICATE_TAG = "duplicate_tag"
    """A tag stands twice that may stand once."""
    UNCLOSED_TAG = "unclosed_tag"
    """A tag is opened and never closed, or closed and never opened."""
    STRAY_TEXT = "stray_text"
    """There is text outside the tags."""
    TAG_FORM = "tag_form"
    """A tag in capitals, with spaces, or in square brackets."""
    UNKNOWN_TAG = "unknown_tag"
    """A tag that the grammar, or this action, does not have."""
    CODE_FENCE = "code_fence"
    """The edit stands inside a code fence."""
    LIST_SEPARATOR = "list_separator"
    """A list that is not separated by commas."""
    AMBIGUOUS_OPERATOR = "ambiguous_operator"
    """No action, and several operators are named."""
    AWAITING_PROMPT = "awaiting_prompt"
    """The turn had to be a prompt and is not one."""

    SYNTAX = "syntax"
    """Not the notation of a workflow."""
    UNKNOWN_OPERATOR = "unknown_operator"
    """An operator that is not on offer."""
    MISPLACED_OPERATOR = "misplaced_operator"
    """An ensemble at the start of a parallel branch, where there is nothing to compare."""
    NOT_A_CHECK = "not_a_check"
    """A condition whose operator gives no verdict."""
    UNKNOWN_NODE = "unknown_node"
    """A target that does not exist, or is no operator where one is needed."""
    UNKNOWN_INPUT = "unknown_input"
    """An input that does not exist or can never arrive."""
    BAD_POSITION = "bad_position"
    """A position outside the workflow."""
    BAD_COUNT = "bad_count"
    """A loop count outside its limits."""
    TOO_FEW_OPERATORS = "too_few_operators"
    """A structure without the operators that it needs."""
    TOO_MANY_PROMPTS = "too_many_prompts"
    """More prompts than operators."""
    PROMPT_TOO_SHORT = "prompt_too_short"
    """A prompt of a few characters."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """A prompt over the limit."""
    TOO_MANY_NODES = "too_many_nodes"
    """More operators, or more branches, than allowed."""
    TOO_DEEP = "too_deep"
    """Structures nested deeper than allowed."""
    CYCLE = "cycle"
    """A node that would need its own output."""
    SELF_REFERENCE = "self_reference"
    """A node that names itself, or the structure around it, as input."""
    BAD_ID = "bad_id"
    """An id that is malformed, used twice, or not below the counter."""
    UNREACHABLE_NODE = "unreachable_node"
    """A node whose output reaches nothing; worth a note, never a refusal."""


class WorkflowError(ValueError):
    """Something that is not a workflow.

    Attributes:
        code: the reason.
        message: the reason in words.
        offset: position in the text in characters, −1 where it has none.
    """

    def __init__(self, code: Code, message: str, offset: int = -1) -> None:
        """Keep the parts beside the text."""
        super().__init__(message if offset < 0 else f"{message} (at character {offset})")
        self.code = code
        self.message = message
        self.offset = offset
