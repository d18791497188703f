"""The image of an instance: how it comes to be where the engine lacks it.

Images of source distributions are built in two layers without a network: a package image (requirements and the
pristine tree, shared by all instances of a package version) and a thin instance image (one commit with the bug).
Every other image is pulled. Leaves out names (`image_names.py`), containers (`container.py`) and the removal of
images (`srl-swe gc --images`).
"""

import io
import logging
import re
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException

from srl_swe.environments.downloads import file_lock, sdist_file, wheels_folder
from srl_swe.environments.engine import Engine, engine_errors
from srl_swe.environments.image_names import BASE_IMAGE, dockerfile, package_image_name
from srl_swe.errors import ImageError
from srl_swe.types import InstanceEnvironment, SdistRecipe

IMAGE_LABEL = "srl_swe.image"
PARENT_LABEL = "srl_swe.parent"
"""Id of the image that this one was built on; when that one has changed, this one is built again."""

_BUILD_TIMEOUT_S = 1800
_BUILD_MEMORY_BYTES = 4 << 30
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

_log = logging.getLogger(__name__)


def ensure_image(engine: Engine, environment: InstanceEnvironment) -> str:
    """Return the environment's image name after building or pulling what the engine lacks.

    Any number of threads and processes may ask for the same image at once; one of them makes it. With a recipe,
    the package image is there afterwards too.

    Raises:
        ImageError: the image can be neither built nor pulled; the message says what to do.
        ContainerError: the engine failed.
    """
    if environment.recipe is None:
        _ensure_pulled(engine, environment.image)
    else:
        package = package_image_name(environment.recipe, environment.workdir)
        _ensure_package_image(engine, package, environment.recipe, environment.workdir)
        _ensure_instance_image(engine, environment.image, package, environment.recipe, environment.workdir)
    return environment.image


def _find(engine: Engine, name: str) -> dict[str, Any] | None:
    with engine_errors(f"cannot look for the image {name}"):
        try:
            found: dict[str, Any] = engine.client.api.inspect_image(name)
        except ImageNotFound:
            return None
    return found


def _parent(image: Mapping[str, Any] | None) -> str | None:
    return ((image or {}).get("Config", {}).get("Labels") or {}).get(PARENT_LABEL)


def _is_current(engine: Engine, name: str, parent: str) -> bool:
    """True when the image exists and was built on what its parent's name means now, or that name is gone."""
    image = _find(engine, name)
    if image is None:
        return False
    parent_image = _find(engine, parent)
    return parent_image is None or parent_image["Id"] == _parent(image)


def _ensure_pulled(engine: Engine, name: str) -> None:
    if _find(engine, name) is not None:
        return
    with file_lock(name):
        if _find(engine, name) is not None:
            return
        _log.info("pulling %s", name)
        repository, _, tag = name.rpartition(":")
        if not repository or "/" in tag:
            repository, tag = name, "latest"
        try:
            engine.client.images.pull(repository, tag=tag)
        except (DockerException, RequestException) as error:
            raise ImageError(
                f"the image {name} is not in the engine and could not be pulled ({error}). Pull it where a registry"
                f" can be reached (docker pull {name}), or bring it over as a file: docker save there, docker load here"
            ) from error


def _ensure_package_image(engine: Engine, name: str, recipe: SdistRecipe, workdir: str) -> None:
    if _is_current(engine, name, BASE_IMAGE):
        return
    with file_lock(name):
        if _is_current(engine, name, BASE_IMAGE):
            return
        if _find(engine, BASE_IMAGE) is None:
            raise ImageError(
                f"the base image {BASE_IMAGE} is missing, so {name} cannot be built; make it with `make setup`"
                " (or docker/make-base-image) and check with `srl-swe doctor`"
            )
        with engine_errors("cannot ask the engine for its architecture"):
            architecture = engine.client.version()["Arch"]
        machine = _MACHINES.get(architecture, architecture)
        requirements = "".join(f"{line}\n" for line in recipe.requirements)
        files: dict[str, bytes | Path] = {
            "requirements.txt": requirements.encode(),
            "install.sh": (recipe.install_command + "\n").encode(),
            "sdist": sdist_file(recipe),
        }
        for wheel in sorted(wheels_folder(recipe.requirements, machine=machine).iterdir()):
            files[f"wheels/{wheel.name}"] = wheel
        _build(engine, name, BASE_IMAGE, dockerfile("sdist"), files, workdir)


def _ensure_instance_image(engine: Engine, name: str, package: str, recipe: SdistRecipe, workdir: str) -> None:
    if _is_current(engine, name, package):
        return
    with file_lock(name):
        if _is_current(engine, name, package):
            return
        hidden = "".join(f"{path}\0" for path in recipe.hidden_paths)
        files: dict[str, bytes | Path] = {"bug.patch": recipe.bug_patch.encode(), "hidden": hidden.encode()}
        _build(engine, name, package, dockerfile("instance"), files, workdir)


def _build(
    engine: Engine, name: str, parent: str, recipe_text: str, files: Mapping[str, bytes | Path], workdir: str
) -> None:
    started = time.monotonic()
    parent_image = _find(engine, parent)
    if parent_image is None:
        raise ImageError(f"the image {parent}, on which {name} is built, was removed meanwhile; run again")
    labels = {IMAGE_LABEL: "1", PARENT_LABEL: parent_image["Id"]}
    tail: deque[str] = deque(maxlen=40)
    layers: list[str] = []
    with tempfile.TemporaryFile() as context, engine_errors(f"cannot build {name}"):
        _write_context(context, {"Dockerfile": recipe_text.encode(), **files})
        stream = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            tag=name,
            rm=True,
            forcerm=True,
            decode=True,
            pull=False,
            network_mode="none",
            timeout=_BUILD_TIMEOUT_S,
            buildargs={"BASE": parent, "WORKDIR": workdir},
            labels=labels,
            container_limits={"memory": _BUILD_MEMORY_BYTES, "memswap": _BUILD_MEMORY_BYTES},
        )
        for event in stream:
            for line in str(event.get("stream", "")).splitlines():
                tail.append(line)
                if re.fullmatch(r" ---> [0-9a-f]{12}", line):
                    layers.append(line.split()[1])
                _log.debug("%s: %s", name, line)
            if "error" in event:
                _remove_unfinished(engine, layers)
                raise ImageError(f"building {name} failed: {event['error']}\n" + "\n".join(tail))
    built = _find(engine, name)
    if built is None:
        raise ImageError(f"building {name} ended without an image\n" + "\n".join(tail))
    own_bytes = built["Size"] - parent_image["Size"]
    _log.info("built %s in %.1f s, %.1f MB on top of %s", name, time.monotonic() - started, own_bytes / 1e6, parent)


def _remove_unfinished(engine: Engine, layers: Sequence[str]) -> None:
    """Remove the untagged layers that a failed build leaves, newest first; ones that another image uses stay."""
    for layer in reversed(layers):
        image = _find(engine, layer)
        if image is not None and not image["RepoTags"]:
            with suppress(APIError):
                engine.client.api.remove_image(image["Id"])


def _write_context(target: IO[bytes], files: Mapping[str, bytes | Path]) -> None:
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o644
            if isinstance(content, Path):
                entry.size = content.stat().st_size
                with content.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    target.seek(0)
