"""The embedded engine in a folder of its own, kept for the next time, with the base image."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from srl_swe.environments.embedded.engine import EmbeddedEngine
from srl_swe.environments.embedded.image_archives import import_rootfs
from srl_swe.errors import EngineUnavailableError
from srl_swe.paths import cache_dir

IMAGE = "srl-swe/base:bookworm"
CACHE = cache_dir() / "tests"
"""What SRL_SWE_CACHE is to be for a process that shall use the same engine."""


@contextlib.contextmanager
def engine_with_base_image(folder: Path = CACHE / "embedded") -> Iterator[EmbeddedEngine]:
    """Take the base image from the folder, or else from Docker."""
    try:
        engine = EmbeddedEngine(folder)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with engine:
        if engine.find_image(IMAGE) is None:
            if not shutil.which("docker") or subprocess.run(["docker", "image", "inspect", IMAGE]).returncode:
                pytest.skip(f"there is no {IMAGE} to bring in; docker/make-base-image makes it")
            made = subprocess.run(["docker", "create", IMAGE, "true"], check=True, capture_output=True, text=True)
            with subprocess.Popen(["docker", "export", made.stdout.strip()], stdout=subprocess.PIPE) as exported:
                assert exported.stdout is not None
                import_rootfs(engine.images, IMAGE, exported.stdout, labels={"srl_swe.base": "1"})
            subprocess.run(["docker", "rm", made.stdout.strip()], check=True, capture_output=True)
        yield engine
