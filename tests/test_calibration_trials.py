"""Codecs grouped by what they decode to, and given up early."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.calibration.answers import Outcome
from splitter.calibration.trials import LOOKS, Trial, give_up, group
from splitter.codec import CODECS, Codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.codec.zstd import Zstd

FINE, COARSE = (Affine(n, (8 / n,), (8 / n,), n // 2) for n in (16, 4))
LOSSY = (
    Codec("fine", (FINE, Bits(4), Zstd(1))),
    Codec("fine, smaller", (FINE, Bits(4), Zstd(9))),
    Codec("fine, unpacked", (FINE, Zstd(1))),
    Codec("coarse", (COARSE, Bits(2), Zstd(1))),
)


def trial(codec: Codec, size: int, agreements: list[float], error: float = 0.1) -> Trial:
    (quantiser,) = group([codec])
    outcomes = [Outcome(part, None, None, error, 0.9) for part in agreements]
    return Trial(quantiser, [(size,)] * len(outcomes), outcomes)


def test_codecs_that_decode_to_the_same_share_their_tail_runs() -> None:
    quantisers = group([*CODECS.values(), *LOSSY])
    names = [[codec.name for codec in quantiser.codecs] for quantiser in quantisers]
    assert names == [["raw"], ["zstd"], ["fine", "fine, smaller", "fine, unpacked"], ["coarse"]]


@given(st.integers(0, 2**32 - 1))
def test_the_shared_way_gives_the_bytes_and_values_of_each_codec(seed: int) -> None:
    array = np.random.default_rng(seed).standard_normal((1, 3, 5)).astype(np.float32)
    for quantiser in group([*CODECS.values(), *LOSSY]):
        payload, sizes = quantiser.encode(array)
        decoded = quantiser.decode(payload, array)
        for codec, size in zip(quantiser.codecs, sizes, strict=True):
            sent = codec.encode(array)
            assert len(sent) == size
            np.testing.assert_array_equal(codec.decode(sent, "float32", array.shape), decoded)


def test_what_nobody_would_accept_is_given_up() -> None:
    hopeless, poor = trial(LOSSY[0], 9, [0.0] * 10), trial(LOSSY[3], 5, [0.0] * 5 + [1.0] * 5)
    give_up([hopeless, poor])
    assert hopeless.why_stopped == "agreement 0% after 10 samples"
    assert not poor.why_stopped  # after ten samples it may still be above the least


def test_of_values_the_error_decides() -> None:
    far = Trial(group([LOSSY[0]])[0], [(9,)], [Outcome(None, None, None, 0.7, 0.9)])
    near = Trial(group([LOSSY[3]])[0], [(9,)], [Outcome(None, None, None, 0.3, 0.9)])
    give_up([far, near])
    assert far.why_stopped.startswith("error 0.7")
    assert not near.why_stopped


@pytest.mark.parametrize(
    ("size", "agreement", "error", "samples", "is_stopped"),
    [
        (20, 0.9, 0.2, LOOKS[-1], True),
        (20, 0.9, 0.2, LOOKS[0], False),  # too early to say
        (20, 1.0, 0.2, LOOKS[-1], False),  # larger, but agrees more often
        (20, 0.9, 0.05, LOOKS[-1], False),  # larger, but nearer
        (5, 0.8, 0.2, LOOKS[-1], False),  # worse, but smaller
    ],
)
def test_a_codec_both_larger_and_worse_is_given_up(
    size: int, agreement: float, error: float, samples: int, is_stopped: bool
) -> None:
    good = trial(LOSSY[3], 10, [0.95] * samples)
    other = trial(LOSSY[0], size, [agreement] * samples, error)
    give_up([good, other])
    assert bool(other.why_stopped) == is_stopped
    assert not good.why_stopped


def test_a_smaller_one_of_another_compressor_may_be_slower_so_both_stay() -> None:
    slow = trial(Codec("slow", (COARSE, Zstd(19))), 10, [1.0] * 40)
    quick = trial(LOSSY[0], 20, [0.9] * 40, 0.2)
    give_up([slow, quick])
    assert not quick.why_stopped


def test_lossless_codecs_are_never_given_up() -> None:
    trials = [Trial(quantiser, [(100,)] * 40) for quantiser in group(CODECS.values())]
    give_up(trials)
    assert not any(found.why_stopped for found in trials)
