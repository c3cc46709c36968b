"""Which cuts of a plan a bundle holds: the planned one, and those that a session may follow the link to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from splitter.codec import Codec
from splitter.errors import PlanError
from splitter.graph.cut import cut_of
from splitter.graph.values import Graph
from splitter.partition.bundle import Division
from splitter.partition.manifest import CutCost
from splitter.planning.candidates import ON_DEVICE
from splitter.planning.plan import cut_at_head, cut_of_candidate
from splitter.planning.records import Candidate, Plan
from splitter.planning.table import TableCut


def divisions_of(graph: Graph, plan: Plan, alternatives: int = 0) -> list[Division]:
    """The planned cut, and those of the plan's table if it has one.

    With ``alternatives`` that many of the next best and the plan's rivals too, but for those that cannot be
    carried out. Where state lives on the server it is the planned cut alone, as state does not move.

    Raises
    ------
    PlanError
        There would be others beside a cut with state on the server.
    CutError
        The plan contradicts itself.
    """
    if cut_at_head(graph, plan, plan.cut.head).states:
        if alternatives:
            raise PlanError("state lives on the server and does not move: leave alternatives out")
        return [_division(graph, plan, plan.predicted)]
    others: tuple[Candidate, ...] = ()
    if alternatives:
        others = (*plan.alternatives[:alternatives], *plan.baselines)
    candidates = (plan.predicted, *(other for other in others if other.feasible))
    found = [_division(graph, plan, candidate) for candidate in candidates]
    tabled = plan.table.cuts[1:] if plan.table is not None else ()  # the first is the plan's own
    return found[:1] + [_tabled(graph, plan, cut) for cut in tabled] + found[1:]


def demand_no_state(divisions: Sequence[Division]) -> None:
    """Refuse a fallback where state lives on the server; raises PlanError."""
    if any(division.cut.states for division in divisions):
        raise PlanError(
            "state lives on the server, so the device cannot answer alone: leave the fallback out"
        )


def whole_on_device(graph: Graph, plan: Plan | None = None) -> Division:
    """The cut that runs everything on the device, priced where a plan prices it.

    Raises
    ------
    PlanError
        The plan says that the device cannot.
    """
    for candidate in plan.baselines if plan is not None else ():
        if plan is not None and candidate.name == ON_DEVICE:
            if not candidate.feasible:
                raise PlanError(
                    f"the device cannot run the whole model ({candidate.why_not}); give a smaller one "
                    "with the same inputs and outputs as the fallback"
                )
            return _alone(graph, plan, candidate)
    return Division(cut_of(graph, graph.node_of.keys()), name=ON_DEVICE)


def _alone(graph: Graph, plan: Plan, candidate: Candidate) -> Division:
    """Everything on the device, and nothing sent: what the server wants it then does not get."""
    priced = _division(graph, plan, candidate)
    return Division(cut_of(graph, graph.node_of.keys()), name=ON_DEVICE, cost=priced.cost)


def _tabled(graph: Graph, plan: Plan, tabled: TableCut) -> Division:
    """A cut by its nodes, as its tensors alone need not say which it is."""
    codecs: Mapping[str, Codec] = {i.tensor: plan.codec_of(i) for i in tabled.cut.crossing}
    cost = CutCost(
        head_s=tabled.head_s,
        encode_s=tabled.encode_s,
        decode_s=tabled.decode_s,
        tail_s=tabled.tail_s,
        up_bytes=tabled.up_bytes,
        down_bytes=tabled.down_bytes,
    )
    return Division(cut_at_head(graph, plan, tabled.cut.head), codecs, tabled.name, cost)


def _division(graph: Graph, plan: Plan, candidate: Candidate) -> Division:
    codecs: Mapping[str, Codec] = {item.tensor: plan.codec_of(item) for item in candidate.crossing}
    cost = CutCost(
        head_s=candidate.head_s,
        encode_s=candidate.encode_s,
        decode_s=candidate.decode_s,
        tail_s=candidate.tail_s,
        up_bytes=candidate.up_bytes,
        down_bytes=candidate.down_bytes,
    )
    return Division(cut_of_candidate(graph, plan, candidate), codecs, candidate.name, cost)
