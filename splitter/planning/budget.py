"""How much of the model's answer may be lost to codecs, and what one of them loses of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from splitter.calibration.records import (
    Answer,
    Calibration,
    CodecResult,
    DataSource,
    Fraction,
    TensorResult,
)
from splitter.document import Record
from splitter.errors import PlanError


class Budget(Record, frozen=True, kw_only=True):
    """A limit in one of three units."""

    kind: Literal["accuracy", "agreement", "error"]
    limit: Annotated[float, Meta(ge=0)]
    """``accuracy``: the largest part of the answers that were right and may become wrong, or without
    labels that may differ; ``agreement``: that may differ; ``error``: the largest mean relative error."""

    def loss(self, answer: Answer) -> float:
        """What counts against the limit.

        Of the accuracy at least half of the answers that changed, however few of them were right: that
        none of eight was is luck, which other data will not have.

        Raises
        ------
        PlanError
            The model's answer is no class, so that it cannot agree.
        """
        if self.kind == "error":
            return answer.error
        if answer.agreement is None:
            raise PlanError(
                f"the budget is of {self.kind}, but this model's answer is values and not a class: "
                "give --max-error, or calibrate with labels or --answer top1"
            )
        changed = round(1 - answer.agreement, 12)  # 1 - 0.99 is a little more than 0.01
        if self.kind == "accuracy" and answer.lost is not None:
            return max(answer.lost, changed / 2)
        return changed

    def smallest(self, tensor: TensorResult) -> CodecResult | None:
        """The codec of fewest bytes that alone keeps the limit; None where none does."""
        kept = (result for result in tensor.results if self.loss(result.answer) <= self.limit)
        return min(kept, key=lambda result: result.wire_bytes, default=None)

    def __str__(self) -> str:
        """As a person would say it."""
        return {
            "accuracy": f"at most {100 * self.limit:.3g} % of the answers lost",
            "agreement": f"at least {100 * (1 - self.limit):.4g} % of the answers the whole model's",
            "error": f"a relative error of at most {self.limit:.2g}",
        }[self.kind]


def default_budget(calibration: Calibration) -> Budget:
    """1 % of the answers; of values, which have no top-1, a relative error of 1 %."""
    return Budget(kind="accuracy" if calibration.answer == "top1" else "error", limit=0.01)


class CalibrationSource(Record, frozen=True, kw_only=True):
    """What a plan's codecs rest on."""

    budget: Budget
    data: DataSource
    whole_accuracy: Fraction | None
    """Of the whole model on that data; None without labels."""
    tier: str
    """The machine on which the codecs' seconds were measured."""
    device_factor: Annotated[float, Meta(gt=0)]
    """Those seconds are multiplied by this for the device: 1 where it is the same machine, else an
    estimate by how long either takes for zstd."""
    server_factor: Annotated[float, Meta(gt=0)]
    answer: Answer | None
    """Of the plan's codecs together, measured on that data; None where they are lossless."""
    refused: Annotated[int, Meta(ge=0)] = 0
    """Combinations that were measured, broke the budget although the sum of their parts did not, and
    were cut off."""
