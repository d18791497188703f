"""Fixtures that several folders of tests use."""

import os
import signal
from functools import lru_cache
from pathlib import Path
from typing import Any

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one of several workers have all files that use a container engine: their tests share its images."""
    from xdist.scheduler import LoadScopeScheduling

    class EngineInOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "engine" if uses_engine(config.rootpath / file) else file

    return EngineInOneWorker(config, log)


@lru_cache
def uses_engine(file: Path) -> bool:
    """Say whether a file's tests are marked as using an engine; all of the environment's do, or share what is made."""
    return "environments" in file.parts or "mark.docker" in file.read_text(encoding="utf-8")
