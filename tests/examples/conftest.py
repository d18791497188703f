"""The tiny package of the environment's tests, as a file of instances."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments.engine import Engine
from tests.environments.conftest import build_cache, build_engine, tiny_row, tiny_sdist

__all__ = ["build_cache", "build_engine", "instances_file", "quiet_mini_swe_agent", "tiny_row", "tiny_sdist"]


@pytest.fixture(scope="session", autouse=True)
def quiet_mini_swe_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """mini-swe-agent greets on import and makes a folder for its settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSWEA_SILENT_STARTUP", "1")
        patch.setenv("MSWEA_GLOBAL_CONFIG_DIR", str(tmp_path_factory.mktemp("mini-swe-agent")))
        yield


@pytest.fixture(scope="module")
def instances_file(build_engine: Engine, tiny_row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two instances: the tiny one, and the same under another id."""
    path = tmp_path_factory.mktemp("instances") / "instances.jsonl"
    rows = [tiny_row, tiny_row | {"instance_id": "srl-swe__tinycalc-2"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
