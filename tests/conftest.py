from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Models, photos and traces that lie beside the project, not in it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared models and data beside the project (../shared)")
    return SHARED
