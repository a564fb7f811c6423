"""Run-length and dictionary encodings: bytes of a group that they save, and what they cost.

Groups are those of the benchmark `buffer` (`recorded.py`). `turn_id` is a run per turn and is the
only token column with runs; role, kind, operator, reason and the like are few different strings.
Plain token columns are mapped without a copy; an encoded one has to be expanded by its reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Figure, Result, figure, interleave, ratio
from benchmarks.recorded import groups
from wfr.columns import views
from wfr.schema import to_batch


def run(quick: bool) -> Result:
    """Measure sizes and times in this process."""
    made = [to_batch(group) for group in groups(8 if quick else 128, 8, 8192)]
    plain = [batch.column("turn_id").values for batch in made]
    runs = [pc.run_end_encode(values) for values in plain]
    total = sum(batch.nbytes for batch in made)
    kept = sum(values.nbytes for values in runs)
    strings = [column for batch in made for column in _strings(batch)]
    coded = [pc.dictionary_encode(column) for column in strings]
    times = interleave(
        {
            "write": _each(made, lambda batch: batch.serialize()),
            "encode": _each(plain, pc.run_end_encode),
            "map": lambda: _void(views(made)),
            "expand": _each(runs, _expand),
        },
        repeats=3 if quick else 9,
    )
    return Result(
        [
            _share("bytes saved by runs of turn_id", sum(v.nbytes for v in plain) - kept, total),
            ratio("encoding these runs ÷ writing the whole group", times["encode"], times["write"]),
            ratio("expanding them ÷ mapping the whole group", times["expand"], times["map"]),
            _share(
                "bytes saved by dictionaries of repeated strings",
                sum(c.nbytes for c in strings) - sum(c.nbytes for c in coded),
                total,
            ),
        ],
        setup={"groups": len(made), "bytes": total},
    )


def _each(items: Sequence[Any], work: Callable[[Any], object]) -> Callable[[], None]:
    def once() -> None:
        for item in items:
            work(item)

    return once


def _void(_: object) -> None:
    return None


def _expand(runs: pa.RunEndEncodedArray) -> np.ndarray:
    ends = runs.run_ends.to_numpy()
    values: np.ndarray = np.repeat(runs.values.to_numpy(), np.diff(ends, prepend=0))
    return values


def _strings(batch: pa.RecordBatch) -> Iterator[pa.Array]:
    """The columns of few different strings."""
    yield batch.column("stop_reason")
    yield batch.column("source")
    yield batch.column("messages").values.field("role")
    for name in ("kind", "finish_reason", "operator"):
        yield batch.column("turns").values.field(name)
    for name in ("operator", "backend", "status"):
        yield batch.column("operator_calls").values.field(name)


def _share(name: str, part: int, total: int) -> Figure:
    return figure(name, [100 * part / total], "%")
