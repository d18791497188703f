"""The image of an instance: how it comes to be where the engine lacks it.

Images of source distributions are built in two layers without a network: a package image (requirements and the
pristine tree, shared by all instances of a package version) and a thin instance image (one commit with the bug).
Derived images are such a thin layer on a published image. Each is what one of docker/build-* leaves in a container of
its parent, so every engine can build them. Every other image is pulled. Leaves out names (`image_names.py`) and what
is done once before the first episode (`preparation.py`).
"""

import logging
import time
from collections.abc import Callable, Mapping

from srl_swe.environments.container import Container
from srl_swe.environments.downloads import file_lock, sdist_file, wheels_folder
from srl_swe.environments.engine import Engine
from srl_swe.environments.image_names import BASE_IMAGE, build_script, package_image_name
from srl_swe.environments.image_pulls import ImagePuller
from srl_swe.environments.limits import ContainerLimits
from srl_swe.errors import ImageError
from srl_swe.types import DerivedRecipe, InstanceEnvironment, SdistRecipe

IMAGE_LABEL = "srl_swe.image"
PARENT_LABEL = "srl_swe.parent"
"""Id of the image that this one was built on; when that one has changed, this one is built again."""

_BUILD_TIMEOUT_S = 1800
_BUILD_LIMITS = ContainerLimits(max_processes=4096, disk_bytes=32 << 30, lifetime_s=_BUILD_TIMEOUT_S + 600)
_BUILD_FOLDER = "/srl_build"
_IMAGE_ENVIRONMENT = {
    "VIRTUAL_ENV": "/opt/venv",
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}

_log = logging.getLogger(__name__)


def ensure_image(
    engine: Engine, environment: InstanceEnvironment, *, pull: Callable[[str], object] | None = None
) -> str:
    """Return the environment's image name after building or pulling what the engine lacks.

    Any number of threads and processes may ask for the same image at once; one of them makes it. With a recipe,
    the package image or the parent is there afterwards too. `pull` makes sure of a published image by its name, in
    place of a plain pull.

    Raises:
        ImageError: the image can be neither built nor pulled; the message says what to do.
        ContainerError: the engine failed.
    """
    pull = pull or ImagePuller(engine).ensure
    if environment.recipe is None:
        pull(environment.image)
    elif isinstance(environment.recipe, DerivedRecipe):
        pull(environment.recipe.parent)
        _ensure_derived_image(engine, environment.image, environment.recipe, environment.workdir)
    else:
        package = package_image_name(environment.recipe, environment.workdir)
        _ensure_package_image(engine, package, environment.recipe, environment.workdir)
        _ensure_instance_image(engine, environment.image, package, environment.recipe, environment.workdir)
    return environment.image


def _is_current(engine: Engine, name: str, parent: str) -> bool:
    """True when the image exists and was built on what its parent's name means now, or that name is gone."""
    image = engine.find_image(name)
    if image is None:
        return False
    parent_image = engine.find_image(parent)
    return parent_image is None or parent_image.id == image.labels.get(PARENT_LABEL)


def _ensure_package_image(engine: Engine, name: str, recipe: SdistRecipe, workdir: str) -> None:
    if _is_current(engine, name, BASE_IMAGE):
        return
    with file_lock(name):
        if _is_current(engine, name, BASE_IMAGE):
            return
        if engine.find_image(BASE_IMAGE) is None:
            raise ImageError(
                f"the base image {BASE_IMAGE} is missing, so {name} cannot be built; make it with `make setup`"
                " (or docker/make-base-image) and check with `srl-swe doctor`"
            )
        requirements = "".join(f"{line}\n" for line in recipe.requirements)
        files = {
            "requirements.txt": requirements.encode(),
            "install.sh": (recipe.install_command + "\n").encode(),
            "sdist": sdist_file(recipe).read_bytes(),
        }
        for wheel in sorted(wheels_folder(recipe.requirements, machine=engine.architecture).iterdir()):
            files[f"wheels/{wheel.name}"] = wheel.read_bytes()
        _build(engine, name, BASE_IMAGE, "build-package", files, workdir)


def _ensure_instance_image(engine: Engine, name: str, package: str, recipe: SdistRecipe, workdir: str) -> None:
    if _is_current(engine, name, package):
        return
    with file_lock(name):
        if _is_current(engine, name, package):
            return
        hidden = "".join(f"{path}\0" for path in recipe.hidden_paths)
        files = {"bug.patch": recipe.bug_patch.encode(), "hidden": hidden.encode()}
        _build(engine, name, package, "build-instance", files, workdir)


def _ensure_derived_image(engine: Engine, name: str, recipe: DerivedRecipe, workdir: str) -> None:
    if _is_current(engine, name, recipe.parent):
        return
    with file_lock(name):
        if _is_current(engine, name, recipe.parent):
            return
        hidden = "".join(f"{path}\0" for path in recipe.hidden_paths)
        files = {"bug.patch": recipe.bug_patch.encode(), "hidden": hidden.encode()}
        _build(engine, name, recipe.parent, "build-derived", files, workdir, environment=None)


def _build(
    engine: Engine,
    name: str,
    parent: str,
    script: str,
    files: Mapping[str, bytes],
    workdir: str,
    *,
    environment: Mapping[str, str] | None = _IMAGE_ENVIRONMENT,
) -> None:
    """Run one of our build scripts in a container of `parent`, with `files` beside it, and keep what it leaves.

    `environment` is what the image's containers start with; None keeps the parent's.
    """
    started = time.monotonic()
    parent_image = engine.find_image(parent)
    if parent_image is None:
        raise ImageError(f"the image {parent}, on which {name} is built, was removed meanwhile; run again")
    with Container.start(engine, parent, limits=_BUILD_LIMITS, name_hint="build") as container:
        files = {"build": build_script(script).encode(), **files}
        container.write_files({f"{_BUILD_FOLDER}/{path}": content for path, content in files.items()})
        result = container.execute(
            ["/bin/bash", f"{_BUILD_FOLDER}/build", _BUILD_FOLDER, workdir], timeout_s=_BUILD_TIMEOUT_S
        )
        _log.debug("%s: %s", name, result.output)
        if result.exit_code != 0:
            why = f"ended at the limit of {_BUILD_TIMEOUT_S} s" if result.timed_out else f"exit code {result.exit_code}"
            raise ImageError(f"building {name} failed ({why}):\n" + "\n".join(result.output.splitlines()[-40:]))
        labels = {IMAGE_LABEL: "1", PARENT_LABEL: parent_image.id}
        container.commit(name, labels=labels, environment=environment, workdir=workdir)
    built = engine.find_image(name)
    if built is None:
        raise ImageError(f"building {name} ended without an image")
    own_bytes = built.size_bytes - parent_image.size_bytes
    _log.info("built %s in %.1f s, %.1f MB on top of %s", name, time.monotonic() - started, own_bytes / 1e6, parent)
