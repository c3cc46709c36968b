"""A report's documents: read by what they say they are, checked against the plan, written as one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from splitter.calibration import records as calibrations
from splitter.calibration.records import Calibration
from splitter.document import read_schema, replacing
from splitter.errors import PlanError, SplitterError
from splitter.planning import verify
from splitter.planning.records import Plan
from splitter.planning.verify import Verification
from splitter.reporting.html import report_html


@dataclass(frozen=True)
class Evidence:
    """What was measured for a plan."""

    measured: tuple[Verification, ...] = ()
    calibrations: tuple[Calibration, ...] = ()

    @classmethod
    def load(cls, paths: Sequence[str | os.PathLike[str]], plan: Plan) -> Evidence:
        """Read files of either kind.

        Raises
        ------
        PlanError, CalibrationError
            One is of another kind, or of another model.
        """
        measured, found = [], []
        for path in paths:
            schema = read_schema(path, PlanError)
            if _kind(schema) == _kind(verify.SCHEMA):
                measured.append(Verification.load(path))
                _check(os.fspath(path), measured[-1].model_sha256, plan)
            elif _kind(schema) == _kind(calibrations.SCHEMA):
                found.append(Calibration.load(path))
                _check(os.fspath(path), found[-1].model_sha256, plan)
            else:
                raise PlanError(
                    f"{os.fspath(path)}: schema is {schema!r}; give what splitter verify -o or "
                    "splitter calibrate -o wrote"
                )
        return cls(tuple(measured), tuple(found))


def write_report(plan: Plan, evidence: Evidence, path: str | os.PathLike[str]) -> int:
    """Write the page whole or not at all, and say how many bytes it has; raises SplitterError."""
    try:
        _check_picture(plan)
        page = report_html(plan, evidence.measured, evidence.calibrations).encode()
    except UnicodeEncodeError as exc:
        raise SplitterError(f"a name in the plan is not Unicode text ({exc.reason})") from exc
    with replacing(path) as file:
        file.write(page)
    return len(page)


def _check_picture(plan: Plan) -> None:
    """Refuse a picture that contradicts itself, as one that was changed by hand may; raises PlanError."""
    graph = plan.graph
    if graph is None:
        return
    read = {name for node in graph.nodes for name in (*node.reads, *node.makes)}
    unknown = sorted({*graph.inputs, *graph.outputs, *read} - graph.tensors.keys())
    tiers = {len(node.seconds) for node in graph.nodes}
    if unknown:
        raise PlanError(f"the plan's picture holds no tensor {unknown[0]!r}; plan again")
    if len({node.name for node in graph.nodes}) != len(graph.nodes) or len(tiers) > 1:
        raise PlanError("the nodes of the plan's picture contradict one another; plan again")
    places = [cut.place for cut in plan.order]
    if places != sorted(set(places)) or (places and places[-1] > len(graph.nodes)):
        raise PlanError("the plan's order counts nodes that its picture has not; plan again")


def _kind(schema: str) -> str:
    return schema.rpartition("/")[0]


def _check(path: str, sha256: str, plan: Plan) -> None:
    if sha256 != plan.model.sha256:
        raise PlanError(
            f"{path}: is of another model ({sha256[:12]}) than the plan ({plan.model.sha256[:12]})"
        )
