"""The embedded engine in a folder of its own, kept for the next time, with the base image."""

import contextlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.embedded.engine import EmbeddedEngine
from srl_swe.environments.embedded.image_archives import import_rootfs
from srl_swe.environments.embedded.images import EmbeddedImages, ImageRecord
from srl_swe.errors import EngineUnavailableError
from srl_swe.paths import cache_dir

IMAGE = "srl-swe/base:bookworm"
CACHE = cache_dir() / "tests"
"""What SRL_SWE_CACHE is to be for a process that shall use the same engine."""

_LABELS = {"srl_swe.base": "1"}


@contextlib.contextmanager
def engine_with_base_image(folder: Path = CACHE / "embedded") -> Iterator[EmbeddedEngine]:
    """Take the base image from the folder, or else from Docker, or from where docker/make-base-image makes it."""
    try:
        engine = EmbeddedEngine(folder)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with engine:
        if engine.find_image(IMAGE) is None and not (_from_docker(engine.images) or _from_cache(engine.images)):
            pytest.skip(f"there is no {IMAGE} to bring in; docker/make-base-image makes it")
        yield engine


def _from_docker(images: EmbeddedImages) -> bool:
    if not shutil.which("docker"):
        return False
    made = subprocess.run(["docker", "create", IMAGE, "true"], capture_output=True, text=True)
    if made.returncode != 0:
        return False
    with subprocess.Popen(["docker", "export", made.stdout.strip()], stdout=subprocess.PIPE) as exported:
        assert exported.stdout is not None
        import_rootfs(images, IMAGE, exported.stdout, labels=_LABELS)
    subprocess.run(["docker", "rm", made.stdout.strip()], check=True, capture_output=True)
    return True


def _from_cache(images: EmbeddedImages) -> bool:
    """Copy it from the engine that this user works with, one layer for each folder at the top."""
    with EmbeddedEngine() as source:
        if source.find_image(IMAGE) is None:
            return False
        with Container.start(source, IMAGE) as container:
            names = set(container.execute(["ls", "-A", "/"]).output.split()) - {"dev", "proc", "sys"}
            layers = [(f"base-{name}", io.BytesIO(container.get_archive(f"/{name}"))) for name in sorted(names)]
        images.unpack(ImageRecord(name=IMAGE, labels=_LABELS), layers)
    return True
