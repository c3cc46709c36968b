from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from splitter.codec import Codec
from splitter.codec.lz4 import Lz4
from splitter.errors import InputError, MissingExtraError, ServingError, StaleBundleError
from splitter.serving.device.session import Session
from splitter.serving.server.serve import serve
from tests import models
from tests.contract import same_bits
from tests.serving import make_bundle, run_whole


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize(
    ("build", "at", "shapes"),
    [
        (models.convolutions, ["p1"], {"image": (1, 3, 16, 16)}),
        (models.convolutions, ["r1"], {"image": (1, 3, 16, 16)}),
        (models.convolutions, [], {"image": (1, 3, 16, 16)}),
        (models.residual, ["a", "b"], {"x": (1, 8)}),
        (models.two_inputs, ["b"], {"left": (1, 8), "right": (1, 4)}),
        (models.two_inputs, [], {"left": (1, 8), "right": (1, 4)}),
        (models.two_outputs, ["early"], {"x": (1, 8)}),
        (models.if_with_captures, ["a", "b", "positive"], {"x": (1, 8)}),
        (models.awkward_names, ["../b"], {"x:0": (7, 8)}),
    ],
)
def test_head_wire_and_tail_give_the_whole_models_bits(build, at, shapes, codec, tmp_path) -> None:
    dims = {"batch": 7} if build is models.awkward_names else None
    bundle = make_bundle(build(), tmp_path, at, codec=codec, dims=dims)
    feeds = drawn(1, **shapes)
    with serve(bundle) as server, Session(bundle, server.address) as session:
        for expected, got in zip(run_whole(bundle, feeds), session.run(None, feeds), strict=True):
            assert same_bits(expected, got)
        assert session.last.up_bytes > 0
        assert session.last.down_bytes > 0


def test_a_bundle_without_tail_needs_no_server(tmp_path: Path) -> None:
    bundle = make_bundle(models.residual(), tmp_path)
    feeds = drawn(1, x=(1, 8))
    with Session(bundle) as session:
        assert same_bits(session.run(None, feeds)[0], run_whole(bundle, feeds)[0])
        assert session.last.up_bytes == 0
        assert session.last.total_s >= session.last.head_s > 0
    with pytest.raises(ServingError, match="nothing to serve: this bundle runs all on the device"):
        serve(bundle)


def test_a_bundle_with_a_tail_needs_a_server(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="give its server"):
        Session(make_bundle(models.residual(), tmp_path, ["d"]))


def test_the_terms_of_a_timing_add_up(tmp_path: Path) -> None:
    bundle = make_bundle(models.convolutions(), tmp_path, ["p1"])
    with serve(bundle) as server, Session(bundle, server.address) as session:
        session.run(None, drawn(1, image=(1, 3, 16, 16)))
        seconds = {
            k: v for k, v in msgspec.structs.asdict(session.last).items() if k.endswith("_s")
        }
    total_s = seconds.pop("total_s")
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) == pytest.approx(total_s)


def test_outputs_come_in_the_order_asked_for_and_the_tail_only_runs_for_its_own(tmp_path) -> None:
    bundle = make_bundle(models.two_outputs(), tmp_path, ["early"])
    feeds = drawn(1, x=(1, 8))
    early, late = run_whole(bundle, feeds)
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert [port.name for port in session.get_outputs()] == ["early", "late"]
        got = session.run(["late", "early"], feeds)
        assert same_bits(got[0], late)
        assert same_bits(got[1], early)
        server.stop()
        assert same_bits(session.run(["early"], feeds)[0], early)
        with pytest.raises(ServingError, match="cannot be reached"):
            session.run(["late"], feeds)
        with pytest.raises(InputError, match="no output is named 'lat'; did you mean 'late'"):
            session.run(["lat"], feeds)


def test_ports_are_the_whole_models(tmp_path: Path) -> None:
    bundle = make_bundle(models.two_inputs(), tmp_path, ["b"])
    with Session(bundle, "127.0.0.1:1") as session:
        assert [(p.name, p.dtype, p.shape) for p in session.get_inputs()] == [
            ("left", "float32", (1, 8)),
            ("right", "float32", (1, 4)),
        ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lefd": np.zeros((1, 8), np.float32)},
            r"the model has no input 'lefd', only 'left', 'right'; did you mean 'left'",
        ),
        ({"left": np.zeros((1, 8))}, r"input 'left' is float64, the model needs float32"),
        (
            {"left": np.zeros((2, 8), np.float32)},
            r"input 'left' has shape 2x8, the model needs 1x8",
        ),
        ({"left": None}, r"input 'left' is not fed; the model needs left, right"),
    ],
)
def test_wrong_feeds_are_refused_before_anything_runs(change, message, tmp_path) -> None:
    feeds = {**drawn(1, left=(1, 8), right=(1, 4)), **change}
    feeds = {name: value for name, value in feeds.items() if value is not None}
    with (
        Session(make_bundle(models.two_inputs(), tmp_path, ["b"]), "127.0.0.1:1") as session,
        pytest.raises(InputError, match=message),
    ):
        session.run(None, feeds)


def test_a_server_with_another_bundle_is_told_apart(tmp_path: Path) -> None:
    ours = make_bundle(models.residual(), tmp_path / "ours", ["d"])
    theirs = make_bundle(models.residual(), tmp_path / "theirs", ["a", "b"])
    with serve(theirs) as server, Session(ours, server.address) as session:
        with pytest.raises(StaleBundleError) as caught:
            session.warm_up()
        assert session.manifest.digest in str(caught.value)
        assert server.manifest.digest in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_model_on_the_server_is_an_error_of_one_line(tmp_path: Path) -> None:
    ours = make_bundle(models.residual(), tmp_path / "ours", ["d"])
    folder = tmp_path / "theirs"
    theirs = make_bundle(models.residual(), folder, ["d"])
    text = (theirs / "manifest.json").read_text()
    (theirs / "manifest.json").write_text(text.replace('"name": "model"', '"name": "another"'))
    match = "no model is named 'model'; this server has 'another'"
    with (
        serve(theirs) as server,
        Session(ours, server.address) as session,
        pytest.raises(ServingError, match=match),
    ):
        session.warm_up()


def test_a_refused_connection_fails_at_once_and_names_the_address(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        bundle = make_bundle(models.residual(), tmp_path, ["d"])
        with Session(bundle, address, deadline_s=60) as session:
            started = time.monotonic()
            with pytest.raises(ServingError, match=f"server {address} cannot be reached"):
                session.warm_up()
            assert time.monotonic() - started < 30, "it waited for the deadline"


def test_a_server_that_never_answers_fails_by_the_deadline(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        bundle = make_bundle(models.residual(), tmp_path, ["d"])
        with (
            Session(bundle, address, deadline_s=0.2) as session,
            pytest.raises(ServingError, match=f"server {address}"),
        ):
            session.warm_up()


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:99999", "a/b:80", "::1:80"])
def test_malformed_addresses_are_refused(address: str, tmp_path: Path) -> None:
    bundle = make_bundle(models.residual(), tmp_path, ["d"])
    with pytest.raises(ServingError, match="not an address"):
        Session(bundle, address)
    with pytest.raises(ServingError, match="not an address"):
        serve(bundle, address)


def test_a_closed_session_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(models.residual(), tmp_path, ["d"])
    with serve(bundle) as server:
        session = Session(bundle, server.address)
        session.close()
        with pytest.raises(ServingError, match="session is closed"):
            session.warm_up()


def test_many_threads_share_a_session_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    bundle = make_bundle(models.convolutions(), tmp_path, ["p1"])
    many = [drawn(seed, image=(1, 3, 16, 16)) for seed in range(8)]
    expected = [run_whole(bundle, feeds)[0] for feeds in many]
    with serve(bundle) as server, Session(bundle, server.address) as session:

        def work(_: int) -> None:
            for feeds, right in zip(many, expected, strict=True):
                assert same_bits(session.run(None, feeds)[0], right)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


def test_twelve_mebibytes_cross(tmp_path: Path) -> None:
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        wide (float[1, 64, 224, 224] x) => (float[1, 64, 224, 224] y) { a = Neg(x) y = Relu(a) }
        """
    )
    bundle = make_bundle(model, tmp_path, ["a"], codec="raw")
    feeds = drawn(1, x=(1, 64, 224, 224))
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert same_bits(session.run(None, feeds)[0], np.maximum(-feeds["x"], 0))
        assert min(session.last.up_bytes, session.last.down_bytes) > 12 << 20


def test_a_package_that_a_codec_needs_is_missed_before_the_first_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle(models.chain(), tmp_path, ["a"], codec=Codec("x", (Lz4(),)))
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    for start in (lambda: Session(folder, "127.0.0.1:1"), lambda: serve(folder)):
        with pytest.raises(MissingExtraError, match=r"pip install 'splitter\[lz4\]'"):
            start()
