"""Fixtures that several folders of tests use."""

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real task rows and trajectories: $SRL_SWE_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("SRL_SWE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data is not here ({folder}); set SRL_SWE_DATA to its folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Where the suite was started in the background, SIGINT is ignored, and child processes would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one worker have all tests that use a container engine, one after the other: they share its images."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.get_closest_marker("docker") or any("engine" in name for name in fixtures):
            item.add_marker(pytest.mark.xdist_group("engine"))
