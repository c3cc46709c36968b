"""What a run answered and where its time went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.planning.records import Latency
from splitter.reporting.text import TERMS, plain_table, terms
from splitter.reporting.units import seconds, shape

Array = np.ndarray[Any, Any]


def answer_text(
    answer: Mapping[str, Array],
    timings: Sequence[Latency],
    predicted_s: float | None = None,
    classes: Sequence[str] | None = None,
) -> RenderableType:
    """Outputs, the top five classes where the names are given, and the terms of the last run."""
    table = plain_table(
        "dtype", "shape", "least", "mean", "greatest", "output", numbers=(2, 3, 4), whole=(0,)
    )
    for name, array in answer.items():
        table.add_row(array.dtype.name, shape(array.shape), *_figures(array), name)
    parts: list[RenderableType] = [table]
    if classes is not None:
        parts += [Text(), _top(next(iter(answer.values())), classes)]
    times = plain_table(f"run {len(timings)}", *TERMS, numbers=range(1, 7))
    times.add_row("measured", *terms(timings[-1]))
    parts += [Text(), times]
    if len(timings) > 1:
        median = float(np.median([timing.total_s for timing in timings]))
        parts.append(Text(f"median of {len(timings)} runs: {seconds(median)}"))
    if predicted_s is not None:
        parts.append(Text(f"the plan predicts {seconds(predicted_s)} over its link"))
    return Group(*parts)


def answer_json(answer: Mapping[str, Array], timings: Sequence[Latency]) -> str:
    """Shapes, the first values and every run's terms; the arrays themselves go to a file."""
    fields = [f"{term}_s" for term in TERMS]
    return json.dumps(
        {
            "outputs": {
                name: {
                    "dtype": array.dtype.name,
                    "shape": list(array.shape),
                    "argmax": int(np.argmax(array)) if array.size else None,
                }
                for name, array in answer.items()
            },
            "runs": [{field: getattr(timing, field) for field in fields} for timing in timings],
        },
        indent=1,
    )


def _figures(array: Array) -> list[str]:
    if not array.size or array.dtype.kind not in "fiub":
        return ["", "", ""]
    values = array.astype(np.float64)
    return [f"{figure:.4g}" for figure in (values.min(), values.mean(), values.max())]


def _top(scores: Array, classes: Sequence[str]) -> Table:
    table = plain_table("class", "", "score", numbers=(0, 2))
    flat = scores.reshape(-1)
    for index in np.argsort(flat)[::-1][:5]:
        name = classes[index] if index < len(classes) else ""
        table.add_row(str(index), name, f"{flat[index]:.4g}")
    return table
