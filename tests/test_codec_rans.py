from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.calibration.fit_rans import fit_modes, fit_rans
from splitter.codec.base import Form
from splitter.codec.codec import AnyStage
from splitter.codec.rans import TOTAL, Rans
from splitter.codec.rans_predicted import MOST_PARENTS, NEAR, Predicted
from splitter.errors import CodecError
from tests.contract import Array, neighbours, predicted

LEVELS, ZERO = 15, 7

of_both = pytest.mark.parametrize("make", [neighbours, predicted])


def maps(count: int, channels: int = 11, side: int = 12, seed: int = 0) -> list[Array]:
    """Smooth channels that are mixed from a few, as many levels below zero as above."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(0, 1, (channels, 4))
    found = []
    for _ in range(count):
        few = random.normal(0, 1, (4, side + 2, side + 2))
        few = few[:, 1:-1, 1:-1] + few[:, :-2, 1:-1] + few[:, 1:-1, :-2]
        values = np.tensordot(mix, few, 1) + random.normal(0, 0.7, (channels, side, side))
        levels = np.clip(np.rint(values / 1.5) + ZERO, 0, LEVELS - 1)
        found.append(levels.astype(np.uint8)[np.newaxis])
    return found


@cache
def fitted() -> tuple[tuple[Rans, float], tuple[Predicted, float]]:
    return fit_modes(maps(40), LEVELS, ZERO)


of_fitted = pytest.mark.parametrize("mode", [0, 1], ids=["neighbours", "predicted"])


def decoded(stage: Rans | Predicted, payload: Array, shape: tuple[int, ...]) -> Array:
    return stage.decode(payload, Form("uint8", shape))


def ideal_bits(stage: Rans | Predicted, batch: Array) -> float:
    table = np.frombuffer(stage.frequencies, "<u2")
    images = batch.reshape(stage.planes(batch.shape))
    return sum(-float(np.log2(table[stage.entries(image)] / TOTAL).sum()) for image in images)


@of_both
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape_comes_back_and_takes_what_its_table_says(make: Any, data: st.DataObject) -> None:
    levels = data.draw(st.integers(2, 32))
    channels = data.draw(st.integers(1, 13))
    rest = data.draw(st.lists(st.integers(0, 9), max_size=3))
    shape = (data.draw(st.integers(0, 3)), channels, *rest)
    stage = make(levels, data.draw(st.integers(0, levels - 1)), channels)
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    batch = random.integers(0, levels, shape).astype(np.uint8)
    payload = stage.encode(batch)
    assert (decoded(stage, payload, shape) == batch).all()
    if batch.size:
        assert 8 * payload.size <= 1.01 * ideal_bits(stage, batch) + 8 * 20


@of_fitted
def test_payloads_are_as_long_as_the_estimate_of_the_fit(mode: int) -> None:
    stage, bits = fitted()[mode]
    for image in maps(8, seed=1):
        assert 8 * stage.encode(image).size <= 1.01 * ideal_bits(stage, image) + 8 * 20
    batch = np.concatenate(maps(30, seed=2))
    assert 8 * stage.encode(batch).size / batch.size == pytest.approx(bits, rel=0.03)


@of_fitted
def test_a_batch_takes_no_more_than_its_images(mode: int) -> None:
    stage = fitted()[mode][0]
    images = maps(5, seed=3)
    payload = stage.encode(np.concatenate(images))
    assert payload.size <= sum(stage.encode(image).size for image in images)
    assert (decoded(stage, payload, (5, *images[0].shape[1:])) == np.concatenate(images)).all()


def is_refused(stage: Rans | Predicted, payload: Array, shape: tuple[int, ...]) -> bool:
    try:
        decoded(stage, payload, shape)
    except CodecError:
        return True
    return False


@of_fitted
def test_flipped_bits_are_found_but_for_one_in_thousands(mode: int) -> None:
    """The last channels go through one state: a wrong one ends right by a chance of 2 ** -16."""
    stage, image = fitted()[mode][0], maps(1, seed=4)[0]
    payload = stage.encode(image)
    missed = 0
    for bit in range(8 * payload.size):
        flipped = payload.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        missed += not is_refused(stage, flipped, image.shape)
    assert missed <= 8 * payload.size / 2000


@of_fitted
def test_what_is_no_stream_is_refused(mode: int) -> None:
    stage, image = fitted()[mode][0], maps(1)[0]
    payload = stage.encode(image)
    for wrong in (payload[:15], payload[:-1], payload[:-2], np.append(payload, [0, 0])):
        with pytest.raises(CodecError):
            decoded(stage, wrong.astype(np.uint8), image.shape)
    with pytest.raises(CodecError, match="level 15"):
        stage.encode(np.full_like(image, LEVELS))
    with pytest.raises(CodecError, match="11 channels"):
        stage.encode(image[:, :10])


def test_the_smaller_mode_is_chosen() -> None:
    (rans, bits), (small, fewer) = fitted()
    assert fewer < 0.9 * bits
    assert fit_rans(maps(40), LEVELS, ZERO) == (small, fewer)
    assert fit_modes(maps(40), LEVELS, ZERO)[0] == (rans, bits)  # the same each time
    noise = np.random.default_rng(0).integers(0, 3, (20, 1, 6, 8, 8)).astype(np.uint8)
    assert fit_rans(list(noise), 3, 0)[1] == pytest.approx(np.log2(3), rel=0.02)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1, 5), (2, 1, 3), (1, 6, 1, 1), (1, 3, 2, 4, 5)]
)
def test_tensors_of_any_rank_are_fitted(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    samples = [random.integers(0, 4, shape).astype(np.uint8) for _ in range(3)]
    for stage, _ in fit_modes(samples, 4, 1):
        assert (decoded(stage, stage.encode(samples[0]), shape) == samples[0]).all()


def test_constant_levels_take_next_to_nothing() -> None:
    for stage, bits in fit_modes([np.full((1, 5, 16, 16), 2, np.uint8)] * 4, 6, 0):
        assert bits < 0.01
        assert stage.encode(np.full((1, 5, 16, 16), 2, np.uint8)).size <= 20


def _weighted(levels: int, zero: int, channels: int, weights: Array, spreads: Array) -> Predicted:
    many = spreads.shape[1] - NEAR
    own = np.repeat(np.arange(channels), many).reshape(channels, many)
    parents = np.where(own // 4 * 4 > np.arange(many), np.arange(many), own)
    even = np.full(levels, TOTAL // levels)
    even[0] += TOTAL - even.sum()
    return Predicted(
        levels, zero, channels, parents.astype("<u2").tobytes(), weights.astype("<i2").tobytes(),
        spreads.astype("<i2").tobytes(), (), (), even.astype("<u2").tobytes(),
    )  # fmt: skip


def _by_definition(stage: Predicted, image: Array) -> tuple[Array, Array]:
    """Means and spreads in whole numbers without bounds, element by element."""
    channels, height, width = image.shape
    many = len(stage.parents) // 2 // channels
    parents = np.frombuffer(stage.parents, "<u2").reshape(channels, many).astype(int)
    weights = np.frombuffer(stage.weights, "<i2").reshape(channels, -1).astype(int)
    spreads = np.frombuffer(stage.spreads, "<i2").reshape(channels, -1).astype(int)
    values, sizes = np.zeros((2, channels, height + 2, width + 2), int)
    values[:, 1:-1, 1:-1] = image.astype(int) - stage.zero
    mean, spread = np.zeros((2, *image.shape), int)
    for c, i, j in np.ndindex(image.shape):
        for kept, factors, out in ((values, weights[c], mean), (sizes, spreads[c], spread)):
            near = [kept[c, i + 1, j], kept[c, i, j + 1], kept[c, i, j], kept[c, i, j + 2]]
            total = factors[0] + factors[1:NEAR] @ near
            for k, parent in enumerate(parents[c]):
                if parent == c:
                    continue
                total += factors[NEAR + k] * kept[parent, i + 1, j + 1]
                if out is mean:
                    around = kept[parent, i : i + 3, j : j + 3]
                    total += factors[NEAR + many + k] * (
                        around[1, [0, 2]].sum() + around[[0, 2], 1].sum()
                    )
            out[c, i, j] = total
        error = abs((values[c, i + 1, j + 1] << 12) - mean[c, i, j])
        sizes[c, i + 1, j + 1] = min((error + 64) >> 7, 255)
    return mean >> 4, spread >> 9


@pytest.mark.parametrize("large", [False, True])
def test_predictions_are_what_they_are_said_to_be(large: bool) -> None:
    """With the largest weights too: no sum may leave 32 bits."""
    channels, many = (68, MOST_PARENTS) if large else (6, 4)
    random = np.random.default_rng(0)
    bound = (1 << 15) - 1 if large else 3000
    weights = random.choice([-bound, bound], (channels, NEAR + 2 * many))
    spreads = np.full((channels, NEAR + many), bound // 3)
    image = random.choice([0, 31], (channels, 4, 5)).astype(np.uint8)
    if large:  # all of one sign add up
        weights[-4:], spreads[-4:], image[:] = -bound - 1, bound, 31
    stage = _weighted(32, 0, channels, weights, spreads)
    mean, spread, _ = stage.predictions(image)
    expected = _by_definition(stage, image)
    assert (mean == expected[0]).all()
    assert (spread == expected[1]).all()


def _changed(**fields: object) -> dict[str, object]:
    return msgspec.to_builtins(predicted(4, 1, 6)) | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"zero": 4},
        {"channels": 0},
        {"channels": 5},
        {"parents": np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 4], "<u2").tobytes()},
        {"parents": np.array([0, 0, 1, 0, 2, 2, 3, 3, 4, 4, 5, 5], "<u2").tobytes()},
        {"parents": b""},
        {"parents": bytes(12 * 65), "weights": bytes(12 * 135), "spreads": bytes(12 * 70)},
        {"weights": bytes(106)},
        {"spreads": bytes(82)},
        {"mean_edges": (0, 3, 100, 700, 700, 800)},
        {"mean_edges": (0, 3, 100, 700, 800)},
        {"mean_edges": (0, 3, 100, 700, 800, 1 << 40)},
        {"spread_edges": (5, 3, 1)},
        {"frequencies": bytes(2 * 28 * 4)},
        {"frequencies": np.full(28 * 4, 1025, "<u2").tobytes()},
        {"mean_edges": tuple(range(256)), "spread_edges": (), "frequencies": bytes(257 * 8)},
    ],
)
def test_configurations_that_the_loops_could_run_out_of_are_refused(
    fields: dict[str, object],
) -> None:
    plain = {
        k: v if isinstance(v, (int, str, tuple)) else msgspec.to_builtins(v)
        for k, v in fields.items()
    }
    msgspec.convert(_changed(), type=AnyStage)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(_changed(**plain), type=AnyStage)


@pytest.mark.parametrize(
    "fields",
    [
        {"zero": 4},
        {"parents": (0, 1, 2, 3, 4, 1, 0)},
        {"parents": (0, 0, 2, 3, 0, 1)},
        {"parents": (0, 1, 2, 3, 4, -1)},
        {"parents": (0, 1, 2, 3, 5, 5)},
        {"classes": bytes(5)},
        {"classes": bytes([0, 1, 2, 0, 1, 0])},
        {"frequencies": bytes(2 * 80 * 4)},
        {"frequencies": np.full(80 * 4, 1025, "<u2").tobytes()},
    ],
)
def test_tables_of_neighbours_that_the_loops_could_run_out_of_are_refused(
    fields: dict[str, Any],
) -> None:
    given = {name: getattr(neighbours(4, 1, 6), name) for name in Rans.__struct_fields__}
    assert Rans(**given) == neighbours(4, 1, 6)
    with pytest.raises(ValueError, match=r".+"):
        Rans(**given | fields)
