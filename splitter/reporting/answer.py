"""What a run answered and where its time went."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.planning.records import Latency
from splitter.reporting.pictures import runs_picture
from splitter.reporting.text import TERMS, plain_table, terms
from splitter.reporting.units import seconds, shape, size
from splitter.serving.device.report import AnsweredBy, Timing

Array = np.ndarray[Any, Any]


def answer_text(
    answer: Mapping[str, Array],
    timings: Sequence[Latency],
    predicted_s: float | None = None,
    classes: Sequence[str] | None = None,
) -> RenderableType:
    """Outputs, the top five classes where the names are given, and of the last run who and how long."""
    table = plain_table(
        "dtype", "shape", "least", "mean", "greatest", "output", numbers=(2, 3, 4), whole=(0,)
    )
    for name, array in answer.items():
        table.add_row(array.dtype.name, shape(array.shape), *_figures(array), name)
    parts: list[RenderableType] = [table if answer else Text("The answer is for another device.")]
    if classes is not None and answer:
        parts += [Text(), _top(next(iter(answer.values())), classes)]
    times = plain_table(f"run {len(timings)}", *TERMS, numbers=range(1, 7))
    times.add_row("measured", *terms(timings[-1]))
    parts += [Text(), times]
    last = timings[-1]
    if isinstance(last, Timing):
        parts += [Text(line) for line in (*_rest(last), _who(last))]
    if len(timings) > 1:
        totals = [timing.total_s for timing in timings]
        parts += [*runs_picture(totals, _marks(timings)), *map(Text, _answered(timings))]
        parts.append(Text(f"median of {len(timings)} runs: {seconds(float(np.median(totals)))}"))
    if predicted_s is not None:
        parts.append(Text(f"the plan predicts {seconds(predicted_s)} over its link"))
    return Group(*parts)


def answer_json(answer: Mapping[str, Array], timings: Sequence[Latency]) -> str:
    """Shapes, and of every run its terms, who answered and how; the arrays themselves go to a file."""
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
            "runs": [msgspec.to_builtins(timing) for timing in timings],
        },
        indent=1,
    )


_ANSWERED = {
    AnsweredBy.SERVER: "the server",
    AnsweredBy.DEVICE: "the device",
    AnsweredBy.STAND_IN: "the stand-in on the device",
    AnsweredBy.GATE: "the gate on the device",
}
_MARK_OF = {
    AnsweredBy.SERVER: "s", AnsweredBy.DEVICE: "d", AnsweredBy.STAND_IN: "i", AnsweredBy.GATE: "g",
}  # fmt: skip
_MORE = ("gate", "wait", "receive", "join", "queue", "server_encode")
_NOTEWORTHY = 0.01  # of the total


def _rest(timing: Timing) -> list[str]:
    """The terms that a plan does not have, where they count."""
    named = {term.replace("_", " "): getattr(timing, f"{term}_s") for term in _MORE}
    found = [
        f"{term} {seconds(took_s)}"
        for term, took_s in named.items()
        if took_s >= _NOTEWORTHY * timing.total_s > 0
    ]
    return [f"in the total too: {', '.join(found)}"] if found else []


def _who(timing: Timing) -> str:
    words = [f"answered by {_ANSWERED[timing.answered_by]}"]
    if timing.why is not None:
        words.append(f"not the server: {timing.why}")
    if timing.cut:
        words.append(f"cut {timing.cut} ({timing.cut_name})")
    if timing.attempts:
        words.append(f"{timing.attempts} attempt{'s' * (timing.attempts > 1)}")
    if timing.hedged:
        words.append("hedged")
    if timing.up_bytes:
        words.append(f"{size(timing.up_bytes)} up, {size(timing.down_bytes)} down")
    return "; ".join(words)


def _marks(timings: Sequence[Latency]) -> list[str]:
    """Of who answered, a run each."""
    return [_MARK_OF[timing.answered_by] for timing in timings if isinstance(timing, Timing)]


def _answered(timings: Sequence[Latency]) -> list[str]:
    """How many runs each answered, where it was not always the same, and the marks above."""
    by = Counter(timing.answered_by for timing in timings if isinstance(timing, Timing))
    if len(by) < 2:
        return []
    each = (f"{by[who]} by {_ANSWERED[who]} ({_MARK_OF[who]})" for who in by)
    return ["runs answered: " + ", ".join(each)]


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
