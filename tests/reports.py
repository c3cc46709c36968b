"""A plan whose numbers are given, not measured, so that its report always says the same."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.link_parse import find_link
from splitter.planning.plan import PlanOptions, make_plan
from splitter.planning.records import Latency, Origin, Plan
from splitter.planning.terms import Term
from splitter.planning.verify import Row, Verification
from splitter.profiling.profile import Kernel, Profile, Watts
from splitter.runtime import Settings

HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"


FULL = PlanOptions(envelope=True, explain=True, pareto=(Term.LATENCY, Term.ENERGY))


def staged(stages: int = 6, suffix: str = "") -> onnx.ModelProto:
    """Stages of a pooling, two activations and a sum, named as modules; each quarters the bytes."""
    nodes, last, size = [], "image", 256
    for stage in range(stages):
        prefix = f"/body/body.{stage}{suffix}"
        pooled, a, b, total = (
            f"s{stage}_{name}{suffix}" for name in ("pool", "relu", "tanh", "sum")
        )
        nodes += [
            helper.make_node("MaxPool", [last], [pooled], f"{prefix}/MaxPool", kernel_shape=[2, 2],
                             strides=[2, 2]),
            helper.make_node("Relu", [pooled], [a], f"{prefix}/Relu"),
            helper.make_node("Tanh", [a], [b], f"{prefix}/Tanh"),
            helper.make_node("Add", [pooled, b], [total], f"{prefix}/Add"),
        ]  # fmt: skip
        last, size = total, size // 2
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, width, width])
        for name, width in (("image", 256), (last, size))
    ]
    graph = helper.make_graph(nodes, "staged", ends[:1], ends[1:])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def profile_of(model: Model, tier: str, whole_s: float, origin: str = "measured") -> Profile:
    """Every node a kernel, all of them as slow."""
    names = tuple(model.graph.node_of)
    kernels = tuple(
        Kernel(
            name=name, op_type=model.graph.node_of[name].op_type, nodes=(name,),
            seconds=whole_s / len(names), spread_s=0.0, flops=1, moved_bytes=1,
        )
        for name in names
    )  # fmt: skip
    return Profile(
        created="2026-01-01T00:00:00+00:00", tier=tier, origin=Origin(origin).value,
        model_file=model.path.name, model_sha256=model.graph.sha256, dims={}, shapes={},
        settings=Settings(), warmup=1, runs=1,
        fingerprint={"processor": "a chip", "cores": 4, "onnxruntime": version("onnxruntime")},
        whole_s=whole_s, whole_spread_s=0.0, nodes=names, kernels=kernels, anchors=(),
        power=Watts(active_w=5.0, idle_w=2.0),
    )  # fmt: skip


def staged_plan(
    path: Path,
    link: str = "8Mbit/s,5ms",
    device_s: float = 1.2,
    suffix: str = "",
    options: PlanOptions = FULL,
) -> Plan:
    """Plan the staged model between a device and a server ten times as fast."""
    path.write_bytes(staged(suffix=suffix).SerializeToString())
    model = load_model(path)
    device = profile_of(model, "a-device", device_s, "estimated")
    server = profile_of(model, "a-server", device_s / 10)
    return make_plan(model, (device, server), find_link(link), options)


def measured_of(plan: Plan) -> Verification:
    """What a clock might have said of a plan: all a tenth slower."""
    rows = []
    for item in (plan.predicted, *plan.baselines, *plan.alternatives):
        terms = (item.head_s, item.encode_s, item.link_s, item.decode_s, item.tail_s)
        took = Latency.of(*(1.1 * term for term in terms))
        rows.append(
            Row(
                name=item.name, predicted=Latency.of(*terms), measured=took,
                low_s=took.total_s * 0.97, high_s=took.total_s * 1.05, up_bytes=item.up_bytes,
            )
        )  # fmt: skip
    return Verification(
        model_sha256=plan.model.sha256, rows=tuple(rows), best=rows[0].name, regret=0.0, rounds=9,
        device_factor=1.0, server_factor=1.0, device_origin=plan.device.origin,
        server_origin=plan.server.origin,
    )  # fmt: skip
