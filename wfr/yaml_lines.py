"""Where in a YAML file a key stands, for errors that people can follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import yaml

Path = tuple[str | int, ...]


def key_lines(text: str) -> Mapping[Path, int]:
    r"""Lines, from 1, of every key and list item of a document; the text is known to be YAML.

    >>> key_lines("run:\n  name: x")
    {('run',): 1, ('run', 'name'): 2}
    """
    return dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader), (), set()))


def place_of(file: object, location: Sequence[str | int], lines: Mapping[Path, int]) -> str:
    """` (FILE, line N)` of a location; nothing where the file does not have it."""
    line = line_of(location, lines)
    return f" ({file}, line {line})" if line else ""


def line_of(location: Sequence[str | int], lines: Mapping[Path, int]) -> int | None:
    """Line of a location, or of the innermost part of it that the file has.

    A part that the file lacks, for example the name of a variant, is skipped.
    """
    path: Path = ()
    for part in location:
        if (*path, part) in lines:
            path = (*path, part)
    return lines.get(path)


def _lines(node: yaml.Node | None, path: Path, above: set[int]) -> Iterator[tuple[Path, int]]:
    if id(node) in above:  # an alias to what holds it
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner, above | {id(node)})
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines(item, (*path, index), above | {id(node)})
