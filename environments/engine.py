"""What the project needs of a container engine: the `Engine` protocol and the records that cross it.

Two engines implement it: `docker_engine.py` (Docker and Podman) and `embedded/engine.py` (Linux namespaces,
for machines without either). `connect.py` chooses. Left out: what a container is used for (`container.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from srl_swe.environments.limits import ContainerLimits

STDOUT = 1
STDERR = 2

HOSTNAME = "srl-swe"
"""The host name inside every container."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSpec:
    """All that an engine is told of a container."""

    image: str
    name: str
    """Unique; serves as the container's id from then on."""
    labels: Mapping[str, str]
    limits: ContainerLimits
    init: tuple[str, ...]
    """The program of process 1."""
    workdir: str = "/"
    capabilities: tuple[str, ...] = ()
    """Linux capabilities left to it: only where nothing hostile has run yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerState:
    """What the engine knows of a container."""

    running: bool
    status: str
    """The engine's word, "removed" where it knows no such container."""
    exit_code: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInfo:
    """An image that the engine has."""

    id: str
    size_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """All its names with tags."""
    digests: tuple[str, ...] = ()
    """Of its manifests, as repository@sha256:…; Docker has none of what never came from a registry, Podman does."""
    parent: str = ""
    """Id of the image that keeps its layers as long as this one is here; "" where an engine knows no such bond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLayer:
    """A layer on top of certain others: what images share, and what the disk holds once."""

    key: str
    """The same for the same layer on the same layers, in all images of an engine."""
    size_bytes: int
    """Of its files, unpacked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PullProgress:
    """How far a pull has come. What the engine does not know yet counts as 0."""

    done_bytes: int
    """Compressed bytes that came, or that were there."""
    total_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A container, or an image, that carries a label of ours."""

    id: str
    labels: Mapping[str, str]
    running: bool
    """Always False for an image."""


class Exec(Protocol):
    """One program in a container, with its streams."""

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Write to its stdin. Raises OSError (TimeoutError too) when the other side does not read."""

    def receive(self, *, timeout_s: float) -> list[tuple[int, bytes]] | None:
        """Return (STDOUT or STDERR, bytes) as they came; [] after `timeout_s` without any, None at the end."""

    def exit_code(self) -> int | None:
        """Return its exit code, None while it runs. Raises ContainerError."""

    def close(self) -> None:
        """Close the streams; the program goes on. Idempotent."""


class Engine(Protocol):
    """A container engine. May be shared between threads; no call waits without a limit.

    Every method raises ContainerError (EngineUnavailableError where no engine answers, EngineTimeoutError
    where it does not answer in time, ImageError for images) and nothing else.
    """

    name: str
    """Kind and version, for people."""
    gaps: tuple[str, ...]
    """What it does not isolate or limit, in words; () = everything that `ContainerLimits` says holds."""
    architecture: str
    """Of its machines, in the words of `uname -m`."""
    identity: str
    """Tells this engine's store of images from every other one's."""
    can_pull: bool
    """Whether it reads registries."""

    def close(self) -> None:
        """Close the connection; containers keep running."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def find_image(self, name: str) -> ImageInfo | None:
        """Return the image of that name or id, None where the engine has none."""

    def pull_image(self, name: str, *, progress: Callable[[PullProgress], None] | None = None) -> None:
        """Fetch an image from its registry, once. `progress` is called as it comes; what it raises ends the pull.

        Raises:
            PullThrottledError: the registry asks for fewer pulls.
            DiskFullError: the engine's disk has no room.
            ImageError: it could not be pulled.
        """

    def tag_image(self, name: str, new_name: str) -> None:
        """Give an image one more name, which another image may have had."""

    def all_images(self) -> list[ImageInfo]:
        """Return every image, also those without a name."""

    def image_layers(self, name: str) -> tuple[ImageLayer, ...]:
        """Return an image's layers, the lowest first; () where the engine has none of that name or id."""

    def remove_image(self, name: str) -> bool:
        """Remove an image; False where there is none, or where something still uses it."""

    def commit(
        self,
        container_id: str,
        name: str,
        *,
        labels: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> None:
        """Keep the container's files as an image; processes are paused meanwhile.

        `environment` adds to the variables that the image's containers start with, `workdir` replaces; None leaves it.
        """

    def list_images(self, label: str) -> list[Labelled]:
        """Return the images that carry `label` ("key" or "key=value")."""

    def start(self, spec: ContainerSpec) -> None:
        """Create and start a container."""

    def restart(self, container_id: str) -> None:
        """End all its processes at once, and start process 1 again; files stay."""

    def rewind(self, container_id: str) -> bool:
        """Restart it with exactly the files of its image; False where another container would be the quicker way."""

    def remove(self, container_id: str) -> bool:
        """End and remove it; False where it is gone already or another process removes it."""

    def list_containers(self, label: str) -> list[Labelled]:
        """Return the containers that carry `label` ("key" or "key=value"), running or not."""

    def state(self, container_id: str) -> ContainerState:
        """Return what the engine knows of it."""

    def written_bytes(self, container_id: str) -> int:
        """Return the size of all files that the container has written."""

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
        """Start a program in it as `user` (UID:GID), with the environment of its image and `environment` on top."""

    def put_archive(self, container_id: str, folder: str, tar: bytes) -> None:
        """Unpack a tar into an existing folder, owners as the tar says."""

    def get_archive(self, container_id: str, path: str) -> tuple[Iterator[bytes], str]:
        """Return the tar of a path in chunks, and where the path points if it is a symbolic link.

        Raises FileNotFoundError besides, where there is no such path.
        """
