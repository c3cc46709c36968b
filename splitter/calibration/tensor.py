"""One tensor: every codec on every sample, its bytes, its seconds, and what is left of the answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from splitter.calibration.answers import Outcome, unchanged
from splitter.calibration.bench import Bench, LoadedParts, Progress, evenly, load_parts, parallel
from splitter.calibration.fit import MAX_FITTED, fit_codecs, lossless_codecs, why_not_fitted
from splitter.calibration.records import Answer, CodecResult, TensorResult
from splitter.calibration.trials import LOOKS, Quantiser, Trial, give_up, group
from splitter.codec import Codec
from splitter.codec.inputs import input_codecs
from splitter.errors import CodecError
from splitter.graph.cut import cut_of, needed_for
from splitter.profiling.timing import Rounds, interleaved
from splitter.runtime import Array

MAX_FITTED_BYTES = 256 << 20
_TIMED_SAMPLES = 3
ROUNDS = Rounds(least=3, most=9, budget_s=0.15, warmup=1)

Try = tuple[tuple[int, ...], Outcome | None] | str
"""Bytes of every codec and the answer, which a lossless one has none of; or why it failed."""


def calibrate_tensor(
    bench: Bench, name: str, progress: Progress = lambda done, total: None
) -> TensorResult:
    """Try codecs on one tensor; where others cross beside it, those stay exact.

    The head is the least that makes the tensor.

    Raises
    ------
    ModelError, CutError
        The parts of that cut cannot be made or loaded.
    """
    graph = bench.model.graph
    tensor = graph.tensors[name]
    parts = load_parts(bench, cut_of(graph, needed_for(graph, [name])))
    arrays = _some_values(bench, parts, name, tensor.nbytes or 0)
    codecs = [*lossless_codecs(), *fit_codecs(arrays)]
    if name in graph.inputs:
        data = bench.dataset
        codecs += input_codecs(tensor, data.preprocess, data.audio_rate)
    codecs, refused = carrying(codecs, arrays[0])
    trials = [Trial(quantiser) for quantiser in group(codecs)]
    run_trials(bench, parts, name, trials, progress)
    return TensorResult(
        tensor=name,
        dtype=arrays[0].dtype.name,
        shape=arrays[0].shape,
        nbytes=arrays[0].nbytes,
        results=results_of(trials, arrays[:_TIMED_SAMPLES], bench.whole),
        stopped=(*refused, *stopped_of(trials)),
        note=why_not_fitted(arrays) or "",
    )


def run_trials(
    bench: Bench,
    parts: LoadedParts,
    name: str,
    trials: Sequence[Trial],
    progress: Progress,
) -> None:
    """Run every trial over the samples in a shuffled order, giving up on some at the looks."""
    order = bench.shuffled()
    done = 0
    for until in (*(look for look in LOOKS if look < len(order)), len(order)):
        running = [trial for trial in trials if not trial.why_stopped]
        task = partial(_try_sample, bench, parts, name, [trial.quantiser for trial in running])
        for row in parallel(task, order[done:until], bench.jobs):
            for trial, found in zip(running, row, strict=True):
                _note(trial, found)
            done += 1
            progress(done, len(order))
        if done < len(order):
            give_up(trials)


def results_of(
    trials: Sequence[Trial], arrays: Sequence[Array], whole: Answer
) -> tuple[CodecResult, ...]:
    """Of the trials that were not stopped, in their order, timed on a few samples."""
    kept = [trial for trial in trials if not trial.why_stopped]
    codecs = [codec for trial in kept for codec in trial.quantiser.codecs]
    seconds = iter(time_codecs(codecs, arrays))
    found = []
    for trial in kept:
        answer = unchanged(whole) if trial.is_lossless else trial.answer()
        for codec, sizes in zip(
            trial.quantiser.codecs, zip(*trial.sizes, strict=True), strict=True
        ):
            encode_s, decode_s = next(seconds)
            found.append(
                CodecResult(
                    codec=codec,
                    wire_bytes=-(-sum(sizes) // len(sizes)),
                    wire_bytes_p95=int(np.percentile(sizes, 95, method="higher")),
                    encode_s=encode_s,
                    decode_s=decode_s,
                    answer=answer,
                )
            )
    return tuple(found)


def stopped_of(trials: Sequence[Trial]) -> tuple[str, ...]:
    """The codecs of the trials that were stopped, with the reason."""
    return tuple(
        f"{codec.name}: {trial.why_stopped}"
        for trial in trials
        if trial.why_stopped
        for codec in trial.quantiser.codecs
    )


def time_codecs(codecs: Sequence[Codec], arrays: Sequence[Array]) -> list[tuple[float, float]]:
    """Encode and decode seconds of each codec: medians over the arrays, all calls in turn.

    They are this thread's own: a codec waits for nothing, and what else runs here does not count.
    """
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in codecs]
    for array in arrays:
        calls: list[Callable[[], object]] = []
        for codec in codecs:
            payload = codec.encode(array)
            calls.append(partial(codec.encode, array))
            calls.append(partial(codec.decode, payload, array.dtype.name, array.shape))
        samples = interleaved(calls, ROUNDS, time.thread_time)
        for place, (encode, decode) in enumerate(found):
            encode.extend(samples[2 * place].seconds)
            decode.extend(samples[2 * place + 1].seconds)
    return [(statistics.median(encode), statistics.median(decode)) for encode, decode in found]


def _try_sample(
    bench: Bench, parts: LoadedParts, name: str, quantisers: Sequence[Quantiser], index: int
) -> list[Try]:
    values = parts.crossing(bench.feeds(index))
    array = values[name]
    row: list[Try] = []
    for quantiser in quantisers:
        try:
            payload, sizes = quantiser.encode(array)
            if quantiser.lossy.is_lossless:
                row.append((sizes, None))
                continue
            decoded = quantiser.decode(payload, array)
        except CodecError as exc:
            row.append(f"cannot carry {bench.samples[index].name}: {exc}")
            continue
        outputs = parts.finish(values, {name: decoded})
        row.append((sizes, bench.outcome(index, outputs)))
    return row


def _note(trial: Trial, found: Try) -> None:
    if isinstance(found, str):
        trial.why_stopped = trial.why_stopped or found
        return
    sizes, outcome = found
    trial.sizes.append(sizes)
    if outcome is not None:
        trial.outcomes.append(outcome)


def _some_values(bench: Bench, parts: LoadedParts, name: str, nbytes: int) -> list[Array]:
    """The tensor of evenly chosen samples, as many as memory allows."""
    count = max(_TIMED_SAMPLES, min(MAX_FITTED, MAX_FITTED_BYTES // max(1, nbytes)))
    chosen = evenly(range(len(bench.samples)), count)
    return list(
        parallel(lambda index: parts.crossing(bench.feeds(index))[name], chosen, bench.jobs)
    )


def carrying(codecs: Sequence[Codec], array: Array) -> tuple[list[Codec], list[str]]:
    """Those that take such a tensor here, and why the others do not: a library may be missing."""
    kept, refused = [], []
    for codec in codecs:
        try:
            codec.encode(array)
        except CodecError as exc:
            refused.append(f"{codec.name}: {exc}")
        else:
            kept.append(codec)
    return kept, refused
