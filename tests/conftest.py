from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from splitter import api
from splitter.profiling.measure import Effort
from splitter.profiling.timing import Rounds
from tests import models

# A busy machine is no fault of a test's: draws may take long, and the properties hold all the same.
settings.register_profile(
    "busy", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Models, photos and traces that lie beside the project, not in it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared models and data beside the project (../shared)")
    return SHARED


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small models, a profile, a plan and a bundle of ``convolutions``; not to be changed."""
    folder = tmp_path_factory.mktemp("measured")
    for name in ("chain", "convolutions", "dynamic_reshape", "if_with_captures", "residual"):
        models.save(models.every_model()[name], folder / f"{name}.onnx")
    model = api.load(folder / "convolutions.onnx")
    effort = Effort(
        anchors_s=0.2, codecs_s=0.2, rounds=Rounds(least=3, most=5, budget_s=0.01), trace_runs=3
    )
    profile = api.profile(model, effort=effort)
    profile.save(folder / "here.json")
    plan = api.plan(model, device=profile, server=profile, link="lte", at=["p1"])
    plan.save(folder / "plan.json")
    api.split(model, folder / "bundle", plan=plan)
    return folder


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``serving.Gate``: holds the runs of servers while it is shut."""
    from tests.serving import holding_runs

    with holding_runs(monkeypatch) as gate:
        yield gate
