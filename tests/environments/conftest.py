"""A tiny package of our own, as source distribution and task row, and an engine to build its images in."""

import contextlib
import difflib
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.container import Container
from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import PARENT_LABEL
from srl_swe.environments.limits import ContainerLimits
from srl_swe.errors import EngineUnavailableError
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests
from tests.environments.embedded import engine_with_base_image
from tests.environments.engines import podman_engine
from tests.environments.image_world import ImageWorld, image_world

BASE_IMAGE = "srl-swe/base:bookworm"

GOOD = 'def add(a, b):\n    """Return the sum."""\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n'
BROKEN = GOOD.replace("a + b", "a - b")
MODULE = "src/tinycalc/__init__.py"
TESTS = (
    "from tinycalc import add, double\n\n\ndef test_add():\n    assert add(2, 3) == 5\n\n\n"
    "def test_double():\n    assert double(4) == 8\n"
)
INSTALL = (
    "python -c \"import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'tinycalc.pth')"
    ".write_text('/testbed/src')\""
)


def _diff(path: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"a/{path}" if before else "/dev/null",
        f"b/{path}" if after else "/dev/null",
    )
    return f"diff --git a/{path} b/{path}\n{'' if before else 'new file mode 100644' + chr(10)}" + "".join(lines)


def remove_with_children(engine: Engine, package: str) -> None:
    """Remove the package images of that name, of any tag, and every image that was made on top of them."""

    def remove(image_id: str) -> None:
        for child in engine.list_images(f"{PARENT_LABEL}={image_id}"):
            remove(child.id)
        engine.remove_image(image_id)

    assert isinstance(engine, DockerEngine)
    for row in engine.client.api.images(name=package):
        remove(row["Id"])


EMPTY_REPOSITORY = (
    "mkdir /repo && cd /repo && git init -q && git -c user.name=a -c user.email=a@b commit -qm 0 --allow-empty"
)


def make_image(engine: Engine, image: str, setup: str = EMPTY_REPOSITORY) -> None:
    """Keep what a shell text does to the base image as an image."""
    with Container.start(engine, BASE_IMAGE) as container:
        result = container.execute(["bash", "-c", setup])
        assert result.exit_code == 0, result.output
        container.commit(image, labels={})


def plain_instance(image: str, *, problem_statement: str = "x should be 2", activate: str = "") -> Instance:
    """Return an instance whose work tree is /repo and whose tests are never run."""
    return Instance(
        instance_id="one",
        repo="a/b",
        base_commit="",
        problem_statement=problem_statement,
        environment=InstanceEnvironment(image=image, workdir="/repo", activate=activate),
        tests=InstanceTests(script="true", parser="parse_log_pytest", fail_to_pass=("t",), pass_to_pass=()),
        gold_patch="",
    )


def remove_prepared(engine: Engine, image: str) -> None:
    """Remove an image and what was prepared of it."""
    found = engine.find_image(image)
    for prepared in engine.list_images(f"{PARENT_LABEL}={found.id}" if found else "none"):
        engine.remove_image(prepared.id)
    engine.remove_image(image)


@pytest.fixture(scope="session")
def diff() -> Callable[[str, str, str], str]:
    """diff(path, before, after): a git patch of one text file; an empty `before` means that it is new."""
    return _diff


@pytest.fixture(scope="session")
def tiny_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution tinycalc-1.0.tar.gz, byte for byte the same in every run."""
    path = tmp_path_factory.mktemp("sdist") / "tinycalc-1.0.tar.gz"
    files = {
        MODULE: GOOD,
        "tests/test_tinycalc.py": TESTS,
        "tests/conftest.py": "",
        "PKG-INFO": "Metadata-Version: 2.1\nName: tinycalc\nVersion: 1.0\n",
        ".gitignore": "PKG-INFO\n",
    }
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"tinycalc-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(tar.getvalue(), mtime=0))
    return path


@pytest.fixture(scope="session")
def tiny_row(tiny_sdist: Path) -> dict[str, Any]:
    """A source-distribution row of tinycalc whose `add` subtracts; its only test file is hidden from the agent."""
    return {
        "instance_id": "srl-swe__tinycalc-1",
        "repo": "srl-swe/tinycalc",
        "package": {
            "name": "tinycalc",
            "version": "1.0",
            "sdist_filename": tiny_sdist.name,
            "sha256": hashlib.sha256(tiny_sdist.read_bytes()).hexdigest(),
        },
        "pip_requirements": ["iniconfig==2.0.0", "packaging==24.2", "pluggy==1.5.0", "pytest==8.3.4"],
        "install_cmd": INSTALL,
        "workdir": "/testbed",
        "test_cmd": "python -m pytest -rA -p no:cacheprovider tests",
        "test_files": ["tests/test_tinycalc.py"],
        "f2p_test_files": ["tests/test_tinycalc.py"],
        "log_parser": "pytest",
        "bug_patch": _diff(MODULE, GOOD, BROKEN),
        "patch": _diff(MODULE, BROKEN, GOOD),
        "FAIL_TO_PASS": ["tests/test_tinycalc.py::test_add"],
        "PASS_TO_PASS": ["tests/test_tinycalc.py::test_double"],
        "problem_statement": "add(2, 3) returns -1",
    }


@pytest.fixture(scope="module")
def build_cache(tmp_path_factory: pytest.TempPathFactory, tiny_sdist: Path) -> Iterator[Path]:
    """An empty cache folder, and pip's find-links pointing at tiny_sdist besides what the host configures."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRL_SWE_CACHE", str(folder))
        patch.setenv("PIP_FIND_LINKS", f"{os.environ.get('PIP_FIND_LINKS', '')} {tiny_sdist.parent}".strip())
        yield folder


@pytest.fixture(scope="module")
def build_engine(build_cache: Path) -> Iterator[Engine]:
    """The engine, with the cache of `build_cache`; images of the tiny package are removed at the end."""
    try:
        engine = connect_engine()
    except EngineUnavailableError as error:
        pytest.skip(f"no container engine answers: {error}")
    try:
        yield engine
        remove_with_children(engine, "srl-swe/sdist-tinycalc")
    finally:
        engine.close()


EVERY_ENGINE = ("docker", "podman", "embedded")
ON_EVERY_ENGINE = tuple(
    f"test_{name}"
    for name in (
        "attacks",
        "container",
        "image_layers",
        "leaks",
        "sessions",
        "shell",
        "snapshots",
        "swe_env",
        "worktree",
    )
)
"""Files whose tests run on each engine; the others on Docker alone."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses an engine on each of them."""
    if "engine" in metafunc.fixturenames:
        every = metafunc.module.__name__.rpartition(".")[2] in ON_EVERY_ENGINE
        metafunc.parametrize("engine", EVERY_ENGINE if every else ("docker",), indirect=True, scope="session")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine that has the base image."""
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(_connect(request.param, stack))
        except EngineUnavailableError as error:
            pytest.skip(f"no container engine answers: {error}")
        if engine.find_image(BASE_IMAGE) is None:
            pytest.skip(f"the engine has no image {BASE_IMAGE}; docker/make-base-image makes it")
        yield engine


def _connect(kind: str, stack: contextlib.ExitStack) -> Engine:
    if kind == "docker":
        return connect_engine()
    if kind == "podman":
        return stack.enter_context(podman_engine())
    return stack.enter_context(engine_with_base_image())


@pytest.fixture
def world(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageWorld]:
    """A registry with images of our own, removed from the engine at the end, and an empty cache."""
    monkeypatch.setenv("SRL_SWE_CACHE", str(tmp_path / "cache"))
    with image_world(engine) as world:
        yield world


@pytest.fixture(scope="module")
def container(engine: Engine) -> Iterator[Container]:
    """A container of the base image with small limits, shared by the tests of one file."""
    limits = ContainerLimits(memory_bytes=256 << 20, max_processes=128)
    with Container.start(engine, BASE_IMAGE, limits=limits, name_hint="tests") as container:
        yield container
