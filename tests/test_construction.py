"""Edits that build a workflow: applied in order they give the same one, or it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from workflow_strategies import RULES, workflows

from wfr.workflow.codes import WorkflowError
from wfr.workflow.construction import construction
from wfr.workflow.dsl import parse
from wfr.workflow.edits import Applied, apply
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import operators


def build(edits):
    workflow = Workflow()
    for edit in edits:
        outcome = apply(workflow, edit, RULES)
        assert isinstance(outcome, Applied), outcome
        workflow = outcome.workflow
    return workflow


@given(workflows())
@settings(max_examples=50, deadline=None)
def test_what_is_built_is_what_was_given(workflow):
    try:
        edits = construction(workflow, RULES)
    except WorkflowError:
        return
    built = build(edits)
    assert built.outline() == workflow.outline()
    pairs = zip(operators(built.nodes), operators(workflow.nodes), strict=True)
    assert all(one.prompt == other.prompt for one, other in pairs)


@pytest.mark.parametrize(
    "text",
    [
        "Plan -> Programmer -> Format",
        "[Plan, Programmer -> Revise] -> Aggregate -> Format",
        "Programmer -> Verify ? done : Revise -> Format",
        "(Programmer -> Revise) * 3 -> Format",
        "(Programmer -> [Plan, Revise] -> Aggregate) * 2 until Verify",
        "Plan -> [Programmer -> (Custom -> Revise) * 2, Custom] -> ScEnsemble",
        'Custom{"be brief"} -> Review{"look twice"} ? done : Revise{"mend it"}',
    ],
)
def test_the_papers_notation_can_be_built(text):
    workflow = parse(text)
    assert build(construction(workflow, RULES)).outline() == workflow.outline()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[Plan, Custom] -> Aggregate, Custom]", "begins with the structure"),
        ("Plan -> Nobody", "no operator 'Nobody'"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(text, says):
    with pytest.raises(WorkflowError, match=says):
        construction(parse(text), RULES)
