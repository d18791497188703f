"""Fixtures that several folders of tests use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real task rows and trajectories: $SRL_SWE_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("SRL_SWE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data is not here ({folder}); set SRL_SWE_DATA to its folder")
    return folder
