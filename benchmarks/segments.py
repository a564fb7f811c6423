"""Sub-sequence means, each against what people would otherwise use.

The mean log-ratio of every turn, forward and backward, by sums over runs (`learner.segments`) and
by a Python loop over the turns. The same float32 tensors, one thread; each side knows beforehand
which tokens belong to which turn. One call of ours is short to be timed: it is measured alone,
right after a loop, and as one of twenty in a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.harness import Figure, Result, at_least, figure, interleave, ratio
from learner.segments import Layout

SIZES = {"rows": 32, "tokens": 8192, "turns": 20}
_IN_A_ROW = 20


def run(quick: bool) -> Result:
    """Measure; `quick` on small tensors."""
    sizes = {"rows": 4, "tokens": 512, "turns": 5} if quick else SIZES
    torch.set_num_threads(1)
    return Result(list(_means(sizes, 2 if quick else 15)), setup=sizes, peers=("torch",))


def _means(sizes: dict[str, int], repeats: int) -> Iterator[Figure]:
    rows, tokens, turns = sizes["rows"], sizes["tokens"], sizes["turns"]
    torch.manual_seed(0)
    values = torch.randn(rows * tokens, requires_grad=True)
    turn_id = torch.arange(tokens).mul(turns).div(tokens, rounding_mode="floor").repeat(rows)
    row_id = torch.arange(rows).repeat_interleave(tokens)
    upstream = torch.randn(rows * tokens)

    segments = Layout.of(turn_id, row_id).segments("subsequence")

    def vectorised() -> None:
        _backward(values, segments.spread(segments.mean(values)), upstream)

    masks = [(row_id == r) & (turn_id == k) for r in range(rows) for k in range(turns)]
    places = [mask.nonzero()[:, 0] for mask in masks]

    def loop() -> None:
        spread = torch.zeros_like(values)
        for place in places:
            spread[place] = values[place].mean()
        _backward(values, spread, upstream)

    grid = values.detach().view(rows, tokens).requires_grad_()
    edges = [round(k * tokens / turns) for k in range(turns + 1)]

    def sliced() -> None:
        spread = torch.zeros_like(grid)
        for row in range(rows):
            for start, end in itertools.pairwise(edges):
                spread[row, start:end] = grid[row, start:end].mean()
        _backward(grid, spread, upstream.view(rows, tokens))

    def in_a_row() -> None:
        for _ in range(_IN_A_ROW):
            vectorised()

    sides = {"first": vectorised, "in a row": in_a_row, "loop": loop, "sliced": sliced}
    samples = interleave(sides, repeats=repeats)
    ours = [seconds / _IN_A_ROW for seconds in samples["in a row"]]
    yield figure("sub-sequence means, a call", [1e3 * s for s in ours], "ms")
    yield figure("the first call after a loop", [1e3 * s for s in samples["first"]], "ms")
    yield ratio("loop over index lists ÷ ours", samples["loop"], ours)
    yield ratio("loop over slices ÷ ours", samples["sliced"], ours, at_least(70))
    yield ratio("loop over slices ÷ the first call", samples["sliced"], samples["first"])


def _backward(leaf: Tensor, result: Tensor, upstream: Tensor) -> None:
    torch.autograd.grad(result, leaf, upstream)
