"""The embedded engine: containers of Linux namespaces, for machines with neither Docker nor Podman.

Needs Linux 5.11, bubblewrap 0.8 (https://github.com/containers/bubblewrap) and user namespaces; no daemon, no root,
nothing set-user-id. All that it knows is in its folder, so any process of its user can find, use and remove any
container. Left out: the protocol's meaning (`engine.py`), namespaces (`sandbox.py`), whether it works on a machine
(`probe.py`).
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from srl_swe.closing import Closing
from srl_swe.environments.embedded.containers import EmbeddedContainers
from srl_swe.environments.embedded.folder import EngineFolder
from srl_swe.environments.embedded.images import EmbeddedImages, ImageRecord, with_tag
from srl_swe.environments.embedded.piped_exec import open_exec, read_archive
from srl_swe.environments.embedded.probe import examine, find_gaps
from srl_swe.environments.embedded.spawner import TaskError
from srl_swe.environments.engine import (
    ContainerSpec,
    ContainerState,
    Exec,
    ImageInfo,
    ImageLayer,
    Labelled,
    PullProgress,
)
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError, ImageError
from srl_swe.paths import cache_dir

_ARCHIVE_TIMEOUT_S = 600.0
_NO_SUCH_PATH = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class EmbeddedEngine(Closing):
    """An `Engine` without a daemon."""

    def __init__(self, folder: Path | None = None) -> None:
        """Try everything that a container needs. `folder` None: "embedded" in the cache folder.

        Raises:
            EngineUnavailableError: it does not work here; the message says what to do.
        """
        self._folder = EngineFolder(folder or cache_dir() / "embedded")
        try:
            machine = examine(self._folder)
        except BaseException:
            self.close()
            raise
        self._containers = EmbeddedContainers(self._folder, cgroups=machine.cgroups, bwrap=machine.bwrap)
        self.images = EmbeddedImages(self._folder, self._containers.use)
        """The store of images."""
        self.name = f"embedded ({machine.version}, Linux {os.uname().release})"
        self.architecture = os.uname().machine
        self.identity = f"embedded {self._folder.path.resolve()}"
        self.can_pull = False
        self.gaps = find_gaps(self._folder, machine)

    def close(self) -> None:
        """See `Engine`."""
        self._folder.spawner.close()

    def __deepcopy__(self, memo: object) -> Self:
        """Return itself: Gymnasium copies the arguments of an environment, and an engine may be shared."""
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Let another process open the same folder."""
        return type(self), (self._folder.path,)

    def find_image(self, name: str) -> ImageInfo | None:
        """See `Engine`."""
        with _errors(f"cannot look for the image {name}"):
            image = self.images.find(name)
        return None if image is None else _info(image)

    def pull_image(self, name: str, *, progress: Callable[[PullProgress], None] | None = None) -> None:
        """See `Engine`. It reads no registry."""
        raise ImageError(
            f"the image {name} is not in the embedded engine, which knows no registry. Where Docker or Podman can pull "
            f"it: `docker pull {name} && docker save {name} -o image.tar`; then here: "
            f"`SRL_SWE_CACHE={cache_dir()} python -m srl_swe.environments.embedded.image_archives load image.tar`"
        )

    def tag_image(self, name: str, new_name: str) -> None:
        """See `Engine`. An image has one name here."""
        raise ImageError(f"the embedded engine cannot name the image {name} {new_name}: it knows one name per image")

    def all_images(self) -> list[ImageInfo]:
        """See `Engine`."""
        with _errors("cannot list images"):
            newest = {image.name: image for image in reversed(self.images.all())}
        return [_info(image) for image in newest.values()]

    def image_layers(self, name: str) -> tuple[ImageLayer, ...]:
        """See `Engine`."""
        with _errors(f"cannot look at the layers of {name}"):
            image = self.images.find(name)
        layers = image.layers if image else {}
        # Topmost first in the record.
        return tuple(ImageLayer(key=key, size_bytes=size) for key, size in reversed(list(layers.items())))

    def remove_image(self, name: str) -> bool:
        """See `Engine`."""
        with _errors(f"cannot remove the image {name}"):
            return self.images.remove(name)

    def commit(
        self,
        container_id: str,
        name: str,
        *,
        labels: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> None:
        """See `Engine`. Labels of the container stay, as with Docker, and variables that `environment` lacks."""
        with _errors(f"cannot keep container {container_id} as the image {name}"):
            record = self._containers.require(container_id)
            base = self.images.find(record.image)
            if base is None:
                raise ImageError(f"its image {record.image} is gone")
            image = ImageRecord(
                name=with_tag(name),
                layers=base.layers,
                labels={**record.labels, **labels},
                environment={**base.environment, **(environment or {})},
                workdir=workdir or base.workdir,
            )
            self.images.keep(self._containers.written(record), image, self._containers.still(record))

    def list_images(self, label: str) -> list[Labelled]:
        """See `Engine`."""
        with _errors("cannot list images"):
            images = [image for image in self.images.all() if _carries(image.labels, label)]
        return [Labelled(id=image.id, labels=image.labels, running=False) for image in images]

    def start(self, spec: ContainerSpec) -> None:
        """See `Engine`."""
        with _errors(f"cannot start a container of image {spec.image!r}"):
            if spec.limits.network:
                raise ContainerError("the embedded engine has no network for containers (ContainerLimits.network)")
            with self.images.unchanging():
                image = self.images.find(spec.image)
                if image is None:
                    raise ImageError("there is no such image")
                record = self._containers.create(spec, image)
            try:
                record.cgroup.make(spec.limits)
                self._containers.start(record)
            except BaseException:
                with contextlib.suppress(ContainerError, OSError):
                    self._containers.remove(spec.name)
                raise

    def restart(self, container_id: str) -> None:
        """See `Engine`."""
        with _errors(f"cannot restart container {container_id}"):
            self._containers.restart(self._containers.require(container_id))

    def rewind(self, container_id: str) -> bool:
        """See `Engine`. All that was written lies in one folder, which is emptied."""
        with _errors(f"cannot rewind container {container_id}"):
            self._containers.restart(self._containers.require(container_id), from_image=True)
        return True

    def remove(self, container_id: str) -> bool:
        """See `Engine`."""
        with _errors(f"cannot remove container {container_id}"):
            return self._containers.remove(container_id)

    def list_containers(self, label: str) -> list[Labelled]:
        """See `Engine`. Before, what killed processes left half made or half removed is removed."""
        with _errors("cannot list containers"):
            self._containers.sweep()
            self.images.sweep()
            records = [record for record in self._containers.all() if _carries(record.labels, label)]
            return [
                Labelled(id=record.name, labels=record.labels, running=self._containers.is_running(record))
                for record in records
            ]

    def state(self, container_id: str) -> ContainerState:
        """See `Engine`."""
        with _errors(f"cannot ask for the state of container {container_id}"):
            return self._containers.state(container_id)

    def written_bytes(self, container_id: str) -> int:
        """See `Engine`."""
        with _errors(f"cannot ask for the size of container {container_id}"):
            return self._folder.size_bytes(self._containers.written(self._containers.require(container_id)))

    def exec(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bool = False,
        environment: Mapping[str, str] | None = None,
        workdir: str = "/",
    ) -> Exec:
        """See `Engine`."""
        with _errors(f"container {container_id}: {argv[0]!r} could not be started"):
            record = self._containers.require(container_id)
            uid, gid = map(int, user.split(":"))
            if not self._folder.id_map.has(uid, gid):
                raise ContainerError(f"there is no user {user} in it; `EmbeddedEngine.gaps` says why")
            home = {"HOME": "/root" if uid == 0 else "/"}
            arguments = {
                **self._containers.entry(record),
                "argv": list(argv),
                "environment": {**home, **record.environment, **(environment or {})},
                "user": (uid, gid),
                "workdir": workdir,
                "capabilities": record.capabilities,
                "rlimits": record.rlimits,
            }
            return open_exec(self._folder.spawner, arguments, stdin=stdin)

    def put_archive(self, container_id: str, folder: str, tar: bytes) -> None:
        """See `Engine`."""
        with _errors(f"container {container_id}: cannot write into {folder}"):
            arguments = {**self._containers.entry(self._containers.require(container_id)), "path": folder}
            descriptor = os.memfd_create("archive")
            try:
                with os.fdopen(descriptor, "wb", closefd=False) as file:
                    file.write(tar)
                os.lseek(descriptor, 0, os.SEEK_SET)
                spawner = self._folder.spawner
                spawner.request("put_archive", arguments, files=[descriptor], timeout_s=_ARCHIVE_TIMEOUT_S)
            finally:
                os.close(descriptor)

    def get_archive(self, container_id: str, path: str) -> tuple[Iterator[bytes], str]:
        """See `Engine`."""
        what = f"container {container_id}: cannot read {path}"
        with _errors(what):
            arguments = {**self._containers.entry(self._containers.require(container_id)), "path": path}
            try:
                return read_archive(self._folder.spawner, arguments, limit_s=_ARCHIVE_TIMEOUT_S, what=what)
            except TaskError as error:
                if error.errno not in _NO_SUCH_PATH:
                    raise
                missing = error
        raise FileNotFoundError(f"{path}: no such file in container {container_id}") from missing


def _info(image: ImageRecord) -> ImageInfo:
    return ImageInfo(id=image.id, size_bytes=image.size_bytes, labels=image.labels, names=(image.name,))


def _carries(labels: Mapping[str, str], label: str) -> bool:
    key, has_value, value = label.partition("=")
    return key in labels and (not has_value or labels[key] == value)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Put `what` before the messages of errors, and make all of them the project's."""
    try:
        yield
    except (EngineTimeoutError, EngineUnavailableError, ImageError) as error:
        raise type(error)(f"{what}: {error}") from error
    except (ContainerError, OSError) as error:
        raise ContainerError(f"{what}: {error}") from error
