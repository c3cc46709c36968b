from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from splitter.errors import BundleError, ModelError, ServingError
from splitter.link import Link
from splitter.partition.manifest import CutCost, Manifest, PortSpec
from splitter.runtime import Runner
from splitter.serving.device import parts as parts_module
from splitter.serving.device.parts import Part, Parts, Source
from splitter.serving.device.policy import Policy
from splitter.serving.device.report import AnsweredBy, Why
from splitter.serving.device.session import Session
from splitter.serving.server.serve import serve
from tests import models
from tests.contract import same_bits
from tests.serving import EXACT, run_whole
from tests.sessions import cuts_bundle, eventually, our_threads

INPUTS = [PortSpec(name="x", dtype="float32", shape=(1, 8))]
FEEDS = {"x": np.ones((1, 8), np.float32)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Source]:
    """Four models that are said to have 100 bytes of weights each."""
    paths = {key: models.save(models.chain(), tmp_path / f"{key}.onnx") for key in "abcd"}
    return {key: Source(path, lambda: 100) for key, path in paths.items()}


@pytest.fixture(autouse=True)
def _estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth of this process is nothing to count on: let the estimate hold."""
    monkeypatch.setattr(parts_module, "_resident_bytes", lambda: 0)
    monkeypatch.setattr(parts_module, "RESIDENT_FACTOR", 1.0)


def loaded(parts: Parts) -> set[str]:
    return set(parts._loaded)


def test_a_part_is_loaded_when_first_needed_and_once(files) -> None:
    parts = Parts(files, INPUTS, EXACT)
    assert parts.ready("a") is None
    made = []
    threads = [threading.Thread(target=lambda: made.append(parts.get("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(part is made[0] for part in made)
    assert made[0].seconds is None
    made[0].run(FEEDS)
    assert made[0].seconds > 0
    parts.close()


def test_a_part_that_is_fetched_is_warm(files) -> None:
    parts = Parts(files, INPUTS, EXACT)
    parts.fetch("b")
    assert eventually(lambda: (part := parts.ready("b")) and part.seconds)
    parts.close()
    assert not our_threads()


def test_the_least_recently_used_goes_and_the_kept_go_last(files) -> None:
    parts = Parts(files, INPUTS, EXACT, 300, kept=["a"])
    for key in "abc":
        parts.get(key)
    assert loaded(parts) == {"a", "b", "c"}
    parts.get("b")
    parts.get("d")
    assert loaded(parts) == {"a", "b", "d"}
    small = Parts(files, INPUTS, EXACT, 150, kept=["a"])
    small.get("a")
    assert not small.fits_beside("b")
    small.get("b")
    assert loaded(small) == {"b"}
    for each in (parts, small):
        each.close()


def test_what_never_fits_is_refused(files) -> None:
    parts = Parts(files, INPUTS, EXACT, 99)
    assert not parts.fits("a")
    with pytest.raises(ServingError, match=r"a.onnx takes about 100 bytes, the memory limit is 99"):
        parts.get("a")
    parts.close()


def test_a_part_that_cannot_be_loaded_is_tried_once_in_the_background(files, tmp_path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    parts = Parts(files, INPUTS, EXACT)
    parts.fetch("a")
    assert eventually(lambda: "a" in parts._broken)
    parts.fetch("a")
    with pytest.raises(ModelError, match="cannot load"):
        parts.get("a")
    parts.close()


def test_seconds_of_a_part_are_the_longest_of_late_runs_but_not_the_first() -> None:
    part = Part(Runner(models.chain().SerializeToString(), EXACT))
    assert part.seconds is None
    for took_s, known_s in [(9.0, 9.0), (1.0, 1.0), (2.0, 2.0), (1.0, 2.0), *[(1.0, None)] * 16]:
        part._note(took_s)
        assert known_s is None or part.seconds == known_s
    assert part.seconds == 1.0


def test_the_first_requests_offline_load_nothing_but_the_fallback(tmp_path: Path) -> None:
    bundle = cuts_bundle(models.convolutions(), tmp_path, ["p1"])
    feeds = {"image": np.ones((1, 3, 16, 16), np.float32)}
    with Session(bundle, "127.0.0.1:1") as session:
        session.run(None, feeds)
        whole = Manifest.load(bundle).on_device
        assert whole is not None
        assert loaded(session._core.device.parts) == {whole.head}


def test_a_damaged_head_is_told_and_answered_without(tmp_path: Path) -> None:
    bundle = cuts_bundle(models.convolutions(), tmp_path, ["p1"])
    feeds = {"image": np.ones((1, 3, 16, 16), np.float32)}
    head = bundle / (Manifest.load(bundle).planned.head or "")
    with serve(bundle) as server:
        head.write_bytes(head.read_bytes()[::-1])
        with Session(bundle, server.address) as session:
            assert eventually(lambda: session.infer(feeds).timing.why is Why.HEAD)
            assert same_bits(session.run(None, feeds)[0], run_whole(bundle, feeds)[0])
        with (
            Session(bundle, server.address, fallback=False) as session,
            pytest.raises(BundleError, match=head.name),
        ):
            session.run(None, feeds)


def costs(head_s: float, up_bytes: int, tail_s: float) -> CutCost:
    return CutCost(
        head_s=head_s, encode_s=0.0, decode_s=0.0, tail_s=tail_s, up_bytes=up_bytes, down_bytes=20
    )


LINK = Link(name="test", up_bytes_per_s=1e6, down_bytes_per_s=1e6, rtt_s=0.001)


def adaptive(folder: Path) -> Path:
    """Planned: cut late. Others: send the input; all on the device."""
    return cuts_bundle(
        models.convolutions(), folder, ["p1"], [],
        costs=[costs(1e-4, 512, 1e-4), costs(0, 3072, 2e-4), costs(1.0, 0, 0)], link=LINK,
    )  # fmt: skip


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_switch_of_cuts_drops_and_reorders_nothing(tmp_path, monkeypatch, in_flight) -> None:
    bundle = adaptive(tmp_path)
    cuts = Manifest.load(bundle).cuts
    turns = iter(range(10**6))
    monkeypatch.setattr(Policy, "choose", lambda *_: cuts[next(turns) // 7 % 3])
    feeds = [{"image": np.full((1, 3, 16, 16), i / 99, np.float32)} for i in range(100)]
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert eventually(lambda: session.infer(feeds[0]).timing.why is None)
        used = set()
        for result in session.run_stream(feeds, in_flight=in_flight):
            expected = run_whole(bundle, feeds[result.index])[0]
            assert same_bits(result.outputs["scores"], expected)
            used.add(result.timing.cut)
            assert (result.timing.why is Why.POLICY) == (result.timing.cut == cuts[2].id)
        assert eventually(lambda: used.add(session.infer(feeds[0]).timing.cut) or len(used) == 3)


def test_the_policy_learns_from_the_sessions_own_requests(tmp_path: Path, monkeypatch) -> None:
    bundle = adaptive(tmp_path)
    seen = []
    monkeypatch.setattr(
        "splitter.serving.device.estimate.LinkEstimator.observe", lambda self, *it: seen.append(it)
    )
    feeds = {"image": np.ones((1, 3, 16, 16), np.float32)}
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert eventually(
            lambda: session.infer(feeds).timing.answered_by is AnsweredBy.SERVER and seen
        )
        exchange, _ = seen[-1]
        assert exchange.up_bytes > 0
        assert exchange.link_s > 0
    seen.clear()
    with serve(bundle) as server, Session(bundle, server.address, adapt=False) as session:
        assert eventually(lambda: session.infer(feeds).timing.why is None)
        assert session.last.cut == session.manifest.planned.id
        assert not seen


def test_a_trial_learns_of_the_link_beside_the_answer_from_here(tmp_path, monkeypatch) -> None:
    bundle = adaptive(tmp_path)
    cuts = Manifest.load(bundle).cuts
    trials = iter([cuts[0], cuts[1]])
    learnt: list[str] = []
    monkeypatch.setattr(Policy, "choose", lambda *_: cuts[2])
    monkeypatch.setattr(Policy, "trial", lambda *_: next(trials, None))
    monkeypatch.setattr(Policy, "observe", lambda self, cut, *_: learnt.append(cut.id))
    exchanged: list[object] = []
    monkeypatch.setattr(
        "splitter.serving.device.estimate.LinkEstimator.observe",
        lambda self, *it: exchanged.append(it),
    )
    feeds = {"image": np.ones((1, 3, 16, 16), np.float32)}
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert session.wait_for_server(15)
        assert eventually(lambda: session.run(None, feeds) and exchanged)
        assert eventually(lambda: session.infer(feeds).timing.why is Why.POLICY)
        assert set(learnt[-1:]) == {cuts[2].id}, "a trial's terms were not measured alone"
