"""Codecs on one tensor: of a model run on data, or an array without a model."""

from __future__ import annotations

from splitter.calibration.answers import Outcome, compare_answers, summarise
from splitter.calibration.bench import Progress, make_bench
from splitter.calibration.choose import demand_tensors
from splitter.calibration.fit import fit_codecs, lossless_codecs, why_not_fitted
from splitter.calibration.records import TensorResult
from splitter.calibration.tensor import calibrate_tensor, carrying, results_of, stopped_of
from splitter.calibration.trials import Trial, group
from splitter.codec.base import MAX_TENSOR_BYTES, travelling
from splitter.dataset import Dataset
from splitter.errors import CalibrationError
from splitter.graph.cut import needed_for
from splitter.graph.model import Model
from splitter.partition.check import accepted_feeds, run_one
from splitter.partition.extract import Extractor
from splitter.runtime import Array, Runner, Settings


def bench_array(name: str, array: Array) -> TensorResult:
    """Fit codecs to one array and try them on it; what is left is of the array, not of an answer.

    Raises
    ------
    CalibrationError
        A message cannot hold it.
    CodecError
        Its dtype cannot travel.
    """
    if array.nbytes > MAX_TENSOR_BYTES:
        raise CalibrationError(
            f"{name}: takes {array.nbytes} bytes, more than a message can hold ({MAX_TENSOR_BYTES})"
        )
    array = travelling(array)
    codecs, refused = carrying([*lossless_codecs(), *fit_codecs([array])], array)
    trials = [Trial(quantiser) for quantiser in group(codecs)]
    for trial in trials:
        payload, sizes = trial.quantiser.encode(array)
        trial.sizes.append(sizes)
        trial.outcomes.append(_own_outcome(array, trial.quantiser.decode(payload, array)))
    return TensorResult(
        tensor=name,
        dtype=array.dtype.name,
        shape=array.shape,
        nbytes=array.nbytes,
        results=results_of(trials, [array], summarise([_own_outcome(array, array)])),
        stopped=(*refused, *stopped_of(trials)),
        note=why_not_fitted([array]) or "",
    )


def bench_tensor(
    model: Model,
    tensor: str,
    dataset: Dataset | None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    jobs: int = 2,
    progress: Progress = lambda done, total: None,
) -> TensorResult:
    """Try codecs on one tensor of a model; without data on random inputs, and then as ``bench_array``.

    Raises
    ------
    CalibrationError
        The tensor does not exist or cannot cross, or the labels do not fit the model's answer.
    InputError
        The runtime refuses a sample, or random inputs.
    """
    demand_tensors(model.graph, [tensor])
    if dataset is None:
        return bench_array(tensor, _random_value(model, tensor, settings))
    bench = make_bench(model, dataset, settings, jobs=jobs)
    return calibrate_tensor(bench, tensor, progress)


def _own_outcome(array: Array, decoded: Array) -> Outcome:
    return compare_answers({"": array}, {"": decoded}, "values", None, {"": 0.0})


def _random_value(model: Model, tensor: str, settings: Settings) -> Array:
    extractor = Extractor(model)
    whole = Runner(extractor.whole().to_bytes(), settings, weights_dir=model.weights_dir)
    feeds, _ = accepted_feeds(whole, model.graph)
    if tensor in feeds:
        return feeds[tensor]
    part = extractor.part(needed_for(model.graph, [tensor]), [tensor])
    runner = Runner(part.to_bytes(), settings, weights_dir=model.weights_dir)
    return run_one(runner, feeds)[tensor]
