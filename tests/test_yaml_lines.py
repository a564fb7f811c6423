"""Keys and the lines on which they stand."""

from __future__ import annotations

import pytest

from wfr.config import ConfigError, load_config
from wfr.yaml_lines import key_lines, line_of

TEXT = """\
# a comment
run:
  name: x
tasks: {eval_tasks: 3,
  held_out: 2}
environment:
  pool:
    - Search
    - Serch
"""


def test_lines():
    lines = key_lines(TEXT)
    assert lines["run",] == 2
    assert lines["run", "name"] == 3
    assert lines["tasks", "eval_tasks"] == 4
    assert lines["tasks", "held_out"] == 5
    assert lines["environment", "pool", 1] == 9
    assert key_lines("") == {}
    assert key_lines("a: &x [1, *x]")["a",] == 1


@pytest.mark.parametrize(
    ("location", "line"),
    [
        (("tasks", "held_out"), 5),
        (("environment", "canvas", "pool", 1), 9),
        (("environment", "absent"), 6),
        (("absent",), None),
        ((), None),
    ],
)
def test_line_of_a_location(location, line):
    assert line_of(location, key_lines(TEXT)) == line


def test_a_configuration_error_names_file_and_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("run:\n  name: x\ntasks:\n\n  held_out: 3\nextra: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["buffer.max_lag=-1"])
    lines = str(caught.value).splitlines()
    assert str(path) in lines[0]
    held_out, extra, lag = (
        next(line for line in lines[1:] if key in line)
        for key in ("tasks.held_out", "extra", "max_lag")
    )
    assert held_out.endswith("(line 5)")
    assert extra.endswith("(line 6)")
    assert "(line" not in lag
