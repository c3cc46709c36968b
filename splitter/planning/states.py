"""State that a model carries from one request to the next, by the names that exporters give it.

An input and an output are taken for one state where they have one dtype and shape and their names differ only
in what says which side they are: ``state`` and ``stateN``, ``h0`` and ``hn``, ``cache_in`` and ``cache_out``,
``past_key_values.3.key`` and ``present.3.key``. A key-value cache may grow, so there the rank will do. Names
prove nothing, so the planner only suggests them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from splitter.graph.values import Graph
from splitter.planning.terms import State

_BEFORE = frozenset({"past", "in", "input", "prev", "previous", "old", "init", "initial", "last"})
_AFTER = frozenset({"present", "out", "output", "next", "new", "updated", "n"})
_DATA = frozenset({
    "audio", "data", "feature", "features", "frame", "image", "img", "mask", "signal", "tensor", "video",
    "x", "y",
})  # fmt: skip
"""What is no state where nothing else is in the name: ``image_in`` and ``image_out``."""

_RECURRENT = {"hn": "h", "cn": "c"}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_Stem = tuple[str, ...]


def likely_states(graph: Graph) -> tuple[State, ...]:
    """Find pairs of an input and an output that look like one state, in the order of the inputs.

    None where every input would be one: then there is nothing that they could be the state of.
    """
    found: dict[str, str] = {}
    for name in graph.inputs:
        matched = [output for output in graph.outputs if _is_one_state(graph, name, output)]
        if len(matched) == 1 and matched[0] not in found.values():
            found[name] = matched[0]
    if len(found) == len(graph.inputs):
        return ()
    return tuple(State(name, output) for name, output in found.items())


def suggestion(graph: Graph, kept: Sequence[State]) -> str:
    """Say how to plan with state that is not kept yet; empty where there is none."""
    known = {state.input for state in kept}
    missing = [state for state in likely_states(graph) if state.input not in known]
    if not missing:
        return ""
    options = " ".join(f"--keep-state {state.input}={state.output}" for state in missing[:2])
    more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
    return (
        f"these look like state that is fed back, and would cross: {options}{more}; give that, or "
        "--keep-state auto"
    )


def _is_one_state(graph: Graph, name: str, output: str) -> bool:
    before, after = graph.tensors[name], graph.tensors.get(output)
    if after is None or before.dtype != after.dtype or before.shape is None or after.shape is None:
        return False
    ours, theirs = _stems(name, _BEFORE), _stems(output, _AFTER)
    common = {stem for stem in ours & theirs if stem and not _DATA.issuperset(stem)}
    if not common or name == output:
        return False
    grows = {"past", "present"} & {*_words(name), *_words(output)}
    return before.shape == after.shape or (bool(grows) and len(before.shape) == len(after.shape))


def _words(name: str) -> _Stem:
    words = tuple(word.lower() for word in _WORDS.findall(name))
    joined = " ".join(words).replace("past key values", "past").replace("key values", "kv")
    return tuple(joined.split())


def _stems(name: str, side: frozenset[str]) -> set[_Stem]:
    """The name without what says which side it is; the 0 of ``h0`` may say so, and the n of ``hn``."""
    words = tuple(_RECURRENT.get(word, word) for word in _words(name) if word not in side)
    if side is _AFTER:
        return {words}
    starts = [i for i, word in enumerate(words) if word == "0"]
    return {words, *(words[:i] + words[i + 1 :] for i in starts if i)}
