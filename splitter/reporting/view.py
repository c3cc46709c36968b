"""What the report's page is given: parts of documents, in the names and units that they have there.

Heads are runs of places along the picture's nodes instead of lists of names, and fitted codecs are left out,
so that a large plan stays a small page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import msgspec

from splitter.calibration.records import Calibration, TensorResult
from splitter.planning.records import Candidate, Plan
from splitter.planning.verify import Row, Verification

Json = dict[str, Any]
_LEFT_OUT = ("schema", "codecs", "stages", "graph", "table", "cut", "order")


def view(plan: Plan, measured: Sequence[Verification], calibrations: Sequence[Calibration]) -> Json:
    """Everything that the page draws."""
    names = [node.name for node in plan.graph.nodes] if plan.graph else []
    place_of = {name: place for place, name in enumerate(names)}
    built: Json = msgspec.to_builtins(plan)
    found = {key: value for key, value in built.items() if key not in _LEFT_OUT}
    found["graph"] = built["graph"]
    found["order"] = built["order"]
    found["cut"] = _runs(plan.cut.head, place_of)
    found["stages"] = [
        built["stages"][i] | {"nodes": _runs(stage.nodes, place_of)}
        for i, stage in enumerate(plan.stages)
    ]
    found["table"] = _table(plan, place_of)
    found["measured"] = [_row(plan, row) for verification in measured for row in verification.rows]
    found["tensors_in_codecs"] = [
        _tensor(tensor, calibration)
        for calibration in calibrations
        for tensor in calibration.tensors
    ]
    return found


def _table(plan: Plan, place_of: dict[str, int]) -> Json | None:
    if plan.table is None:
        return None
    table: Json = msgspec.to_builtins(plan.table)
    for cut, made in zip(plan.table.cuts, table["cuts"], strict=True):
        made["head"] = _runs(cut.cut.head, place_of)
        made["crossing"] = made["cut"]["crossing"]
        made["has_tail"] = cut.cut.tail_nodes > 0
        del made["cut"]
    return table


def _runs(names: Iterable[str], place_of: dict[str, int]) -> list[int]:
    """Places as starts and lengths in turn."""
    runs: list[int] = []
    for place in sorted(place_of[name] for name in names if name in place_of):
        if runs and runs[-2] + runs[-1] == place:
            runs[-1] += 1
        else:
            runs += [place, 1]
    return runs


def _row(plan: Plan, row: Row) -> Json:
    found: Json = msgspec.to_builtins(row)
    found["head_nodes"] = _candidate(plan, row.name)
    return found


def _candidate(plan: Plan, name: str) -> int | None:
    """How many nodes are in the head of the cut that goes by a name."""
    everything: tuple[Candidate, ...] = (plan.predicted, *plan.baselines, *plan.alternatives)
    return next((item.head_nodes for item in everything if item.name == name), None)


def _tensor(tensor: TensorResult, calibration: Calibration) -> Json:
    return {
        "tensor": tensor.tensor,
        "elements": prod(tensor.shape),
        "nbytes": tensor.nbytes,
        "answer": calibration.answer,
        "samples": calibration.data.samples,
        "results": [
            {
                "codec": result.codec.name,
                "lossless": result.codec.is_lossless,
                "wire_bytes": result.wire_bytes,
                "agreement": result.answer.agreement,
                "accuracy": result.answer.accuracy,
                "error": result.answer.error,
            }
            for result in tensor.results
        ],
    }
