"""Outputs that are wanted on the server: planned, split, and given to whoever takes them there."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from placements import question

import splitter
from splitter import api
from splitter.errors import BundleError, InfeasibleError, PlanError, ServingError
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.graph.values import Graph
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.planning.plan import PlanOptions, check_model
from splitter.planning.planner import solve_problem
from splitter.planning.problem import Wishes
from splitter.planning.terms import Limits, Pin
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.server.keeping import Folder, Kept
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve
from tests import models
from tests.chains import EXACT, run_model, run_parts
from tests.cli import succeed
from tests.contract import same_bits
from tests.models import save
from tests.serving import float_request, outputs_of, plain_client
from tests.test_cli_serve import serving
from tests.test_planning_sources import LINK, further, profile

TWO = ("early", "late")


def heads(graph: Graph) -> list[list[str]]:
    return [[node.name for node in graph.nodes[:end]] for end in range(len(graph.nodes) + 1)]


def kept_bundle(
    folder: Path, head: list[str], kept: tuple[str, ...], *, whole: bool = False, proto: Any = None
) -> Bundle:
    model = load_model(save(proto or models.two_outputs(), folder / "model.onnx"))
    divisions = [Division(cut_of(model.graph, head, kept))]
    if whole:
        divisions.append(Division(cut_of(model.graph, model.graph.node_of)))
    return write_bundle(model, divisions, folder / "bundle", Deployment(EXACT))


@pytest.mark.parametrize("build", [models.two_outputs, models.convolutions, models.two_inputs])
def test_the_tail_gives_what_is_kept_wherever_it_is_made(build: Any, tmp_path: Path) -> None:
    model = load_model(save(build(), tmp_path / "model.onnx"))
    feeds, expected = run_model(model)
    outputs = model.graph.outputs
    for head in heads(model.graph):
        for kept in itertools.chain(*(itertools.combinations(outputs, k) for k in (1, 2))):
            bundle = write_bundle(
                model,
                [Division(cut_of(model.graph, head, kept))],
                tmp_path / "b",
                Deployment(EXACT),
            )
            cut = bundle.manifest.planned
            assert set(cut.kept) == set(kept)
            assert Bundle.open(bundle.folder).manifest == bundle.manifest
            made = run_parts([bundle], feeds)
            assert all(same_bits(expected[name], made[name]) for name in outputs)
            sent = {spec.tensor for spec in cut.crossing}
            for name in kept:
                assert (name in sent) == (name not in cut.tail_outputs)


@pytest.mark.parametrize("kept", [("early",), ("late",), TWO])
@pytest.mark.parametrize("count", range(5))
def test_the_server_keeps_and_the_device_gets_the_rest(
    count: int, kept: tuple[str, ...], tmp_path: Path
) -> None:
    names = [node.name for node in models.two_outputs().graph.node]
    assert len(names) == 4
    model = load_model(save(models.two_outputs(), tmp_path / "model.onnx"))
    bundle = kept_bundle(tmp_path, heads(model.graph)[count], kept)
    feeds, expected = run_model(model)
    taken: list[Kept] = []
    with (
        serve(bundle.folder, options=ServerOptions(keep=taken.append)) as server,
        Session(bundle.folder, server.address) as session,
    ):
        session.wait_for_server(5)
        rest = session.infer(feeds)
        assert list(rest.outputs) == [name for name in TWO if name not in kept]
        assert rest.timing.answered_by is AnsweredBy.SERVER
        assert [set(one.outputs) for one in taken] == [set(kept)]
        for name in kept:
            assert same_bits(expected[name], taken[0].outputs[name])
        everything = session.infer(feeds, list(TWO)).outputs
        for name in TWO:
            assert same_bits(expected[name], everything[name])
        assert session.run(["early"], feeds)[0].shape == expected["early"].shape
        assert len(taken) == 3
    assert (taken[0].model, taken[0].bundle) == ("model", bundle.manifest.digest)


def test_plain_clients_get_all_but_what_is_kept(tmp_path: Path) -> None:
    bundle = kept_bundle(tmp_path, [], ("late",))
    request = float_request("model", "x", np.ones((1, 8), np.float32))
    with serve(bundle.folder) as server, plain_client(server.address) as call:
        assert list(outputs_of(call("ModelInfer", request))) == ["early"]
        named = pb.ModelInferRequest.FromString(request.SerializeToString())
        named.outputs.add(name="late")
        assert list(outputs_of(call("ModelInfer", named))) == ["late"]
        request.parameters["answer"].bool_param = False
        assert list(outputs_of(call("ModelInfer", request))) == []


def test_a_request_that_cannot_be_kept_fails(tmp_path: Path) -> None:
    bundle = kept_bundle(tmp_path, [], ("late",))

    def full(kept: Kept) -> None:
        raise OSError("no room")

    with (
        serve(bundle.folder, options=ServerOptions(keep=full)) as server,
        Session(bundle.folder, server.address) as session,
        pytest.raises(ServingError, match="could not be kept"),
    ):
        session.run(None, {"x": np.ones((1, 8), np.float32)})


def test_without_a_server_the_device_answers_and_nothing_is_kept(tmp_path: Path) -> None:
    bundle = kept_bundle(tmp_path, ["a"], ("late",), whole=True)
    feeds, expected = run_model(load_model(tmp_path / "model.onnx"))
    with Session(bundle.folder) as session:
        result = session.infer(feeds)
        assert list(result.outputs) == ["early"]
        assert result.timing.answered_by is AnsweredBy.DEVICE
        assert same_bits(expected["late"], session.run(["late"], feeds)[0])


def test_a_manifest_that_keeps_what_there_is_not_is_refused(tmp_path: Path) -> None:
    bundle = kept_bundle(tmp_path, [], ("late",))
    path = bundle.folder / "manifest.json"
    path.write_text(path.read_text().replace('"late"', '"nix"', 1).replace('["late"]', '["nix"]'))
    with pytest.raises(BundleError):
        Bundle.open(bundle.folder)


def test_a_folder_holds_so_many_files_and_goes_on_where_it_was(tmp_path: Path) -> None:
    arrays = {"a/b:0": np.arange(3.0)}
    kept = Kept("m/../x", "1", "d", "c", "id", arrays)
    folder = Folder(tmp_path, 3)
    for _ in range(5):
        folder(kept)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{number:012}-m_x.npz" for number in (3, 4, 5)]
    with np.load(tmp_path / names[0]) as found:
        assert same_bits(found["a/b:0"], arrays["a/b:0"])
    (tmp_path / "mine.npz").touch()
    Folder(tmp_path, 2)(kept)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000000000005-m_x.npz", "000000000006-m_x.npz", "mine.npz"]
    with pytest.raises(ServingError, match="make it first"):
        Folder(tmp_path / "nix")


def test_many_at_once_keep_each_its_own(tmp_path: Path) -> None:
    bundle = kept_bundle(tmp_path, ["a"], ("late",))
    (tmp_path / "kept").mkdir()
    with (
        serve(bundle.folder, options=ServerOptions(keep=Folder(tmp_path / "kept"))) as server,
        Session(bundle.folder, server.address) as session,
        ThreadPoolExecutor(8) as pool,
    ):
        feeds = [{"x": np.full((1, 8), n / 10, np.float32)} for n in range(24)]
        list(pool.map(session.infer, feeds))
        wanted = {session.run(["late"], one)[0].tobytes() for one in feeds}
    found = [dict(np.load(path))["late"].tobytes() for path in (tmp_path / "kept").iterdir()]
    assert set(found) == wanted
    assert len(found) == 48


@pytest.mark.parametrize("pins", [(), (Pin("*", "device"),), (Pin("scores", "server"),)])
@pytest.mark.parametrize("kept", [("seen",), ("scores",), ("seen", "scores")])
def test_plans_with_outputs_on_the_server_are_deployed(
    kept: tuple[str, ...], pins: tuple[Pin, ...], tmp_path: Path
) -> None:
    model = load_model(save(models.two_cameras(), tmp_path / "model.onnx"))
    limits = Limits(outputs=dict.fromkeys(kept, "server"), pins=pins)
    plan = api.plan(
        model, device=profile(model, 1), server=profile(model, 2), link=LINK,
        options=PlanOptions(wishes=Wishes(limits=limits)),
    )  # fmt: skip
    check_model(plan, model.graph)
    bundle = splitter.split(
        model, tmp_path / "bundle", plan=plan, alternatives=3,
        fallback=None if Pin("scores", "server") in pins else "whole",
    )  # fmt: skip
    assert all(set(cut.kept) == set(kept) for cut in bundle.manifest.cuts if cut.tail)
    assert (bundle.manifest.on_device is None) == (Pin("scores", "server") in pins)
    feeds, expected = run_model(model)
    taken: list[Kept] = []
    with (
        serve(bundle.folder, options=ServerOptions(keep=taken.append)) as server,
        Session(bundle.folder, server.address, adapt=False, fallback=False) as session,
    ):
        rest = session.infer(feeds).outputs
    assert set(rest) == {"seen", "scores"} - set(kept)
    for name, array in {**rest, **taken[0].outputs}.items():
        assert same_bits(expected[name], array)


def test_several_devices_leave_outputs_on_the_server(tmp_path: Path) -> None:
    model = load_model(save(models.two_cameras(), tmp_path / "model.onnx"))
    limits = Limits(
        outputs={"seen": "server", "scores": "server"},
        pins=(Pin("seen", "device"), Pin("rc", "device2"), Pin("rr", "server")),
    )
    plan = api.plan(
        model, device=profile(model, 1), server=profile(model, 2), link=LINK,
        sources=[(further(model, 3, "right").profile, LINK, ["right", "level"])],
        options=PlanOptions(wishes=Wishes(limits=limits)),
    )  # fmt: skip
    first = splitter.split(model, tmp_path / "star", plan=plan)
    feeds, expected = run_model(model)
    taken: list[Kept] = []
    with (
        serve(first.onward[-1].folder, options=ServerOptions(keep=taken.append)) as server,
        Session(first.folder, server.address) as one,
        Session(first.onward[0].folder, server.address) as two,
        ThreadPoolExecutor(1) as beside,
    ):
        other = beside.submit(two.run, None, {name: feeds[name] for name in ("right", "level")})
        assert one.run(None, {"left": feeds["left"]}) == []
        assert other.result() == []
    (kept,) = taken
    for name in ("seen", "scores"):
        assert same_bits(expected[name], kept.outputs[name])


@pytest.mark.parametrize("kind", ["two", "devices"])
@pytest.mark.parametrize("seed", range(30))
def test_what_a_plan_sends_is_what_its_cut_and_the_server_need(seed: int, kind: str) -> None:
    problem = question(seed, 5, "latency", ("outputs",), kind)
    try:
        found = solve_problem(problem, alternatives=0, with_validity=False)
    except InfeasibleError:
        return
    cut = cut_of(problem.graph, found.cut.head, problem.limits.kept)
    assert {item.tensor for item in found.cut.crossing} == set(cut.crossing)


def test_relays_in_use_do_not_keep(tmp_path: Path) -> None:
    model = load_model(save(models.two_cameras(), tmp_path / "model.onnx"))
    pins = (Pin("lc", "device"), Pin("seen", "relay"), Pin("scores", "server"))
    limits = Limits(outputs={"scores": "server"}, pins=pins)
    plan = api.plan(
        model, device=profile(model, 1), server=profile(model, 2), link=LINK,
        relays=[(profile(model, 4), LINK)], options=PlanOptions(wishes=Wishes(limits=limits)),
    )  # fmt: skip
    with pytest.raises(PlanError, match="'scores' is wanted on the server"):
        splitter.split(model, tmp_path / "chain", plan=plan)


def test_the_command_keeps_in_a_folder(tmp_path: Path, capfd: Any) -> None:
    bundle = kept_bundle(tmp_path, ["a"], ("late",))
    (tmp_path / "kept").mkdir()
    np.save(tmp_path / "x.npy", np.ones((1, 8), np.float32))
    with serving(bundle.folder, "--keep-outputs", tmp_path / "kept", "--keep-last", "2") as server:
        succeed(
            capfd, "run", bundle.folder, "--server", server.address, "--input",
            tmp_path / "x.npy", "--repeat", "3",
        )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["000000000002-model.npz", "000000000003-model.npz"]
