"""The images of the embedded engine: folders of layers, and records that say which of them make up an image.

Layers are shared: one goes when no image and no container names it any more. Left out: how archives of images are
read (`image_archives.py`), and registries.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Self

from srl_swe.environments.embedded.folder import EngineFolder
from srl_swe.environments.embedded.whole_folders import locked, new_folder, retired, whole
from srl_swe.errors import ContainerError, ImageError

_MAX_LAYERS = 250
"""Their names must fit into one page of mount options; overlayfs itself takes 500."""
_LOCK_TIMEOUT_S = 60.0
_UNPACK_TIMEOUT_S = 3600.0
_RECORD = "image.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """An image: what its containers start with."""

    name: str
    """With its tag."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Names of folders, the topmost first, and the bytes that each takes."""
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    created_ns: int = field(default_factory=time.time_ns)

    @property
    def size_bytes(self) -> int:
        """Of all its layers."""
        return sum(self.layers.values())

    @property
    def folder_name(self) -> str:
        """Of its folder: can be found by name and by id without reading any."""
        return f"{_digest(self.name)}-{self.id}"

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what is recorded in a folder, None where the image is gone."""
        try:
            return cls(**json.loads((folder / _RECORD).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUse:
    """What containers need."""

    images: frozenset[str]
    """Ids."""
    layers: frozenset[str]


class EmbeddedImages:
    """The store. May be shared between threads and processes."""

    def __init__(self, folder: EngineFolder, in_use: Callable[[], ImageUse]) -> None:
        self._folder = folder
        self._in_use = in_use

    @contextlib.contextmanager
    def unchanging(self) -> Iterator[None]:
        """Keep all other processes and threads from changing images or their use.

        Raises:
            EngineTimeoutError: one of them did not come to an end.
        """
        with locked(self._folder.lock, timeout_s=_LOCK_TIMEOUT_S):
            yield

    def all(self) -> list[ImageRecord]:
        """Return every image, the newest first."""
        return _read(whole(self._folder.images))

    def find(self, name: str) -> ImageRecord | None:
        """Return the image of that name (without a tag: latest) or id, None where there is none."""
        found = self._find_all(name)
        return found[0] if found else None

    def remove(self, name: str) -> bool:
        """Remove an image by name or id; False where there is none, or where a container uses it."""
        with self.unchanging():
            images = self._find_all(name)
            used = self._in_use().images
            if not images or images[0].id in used:
                return False
            # Those of the same name that this one had replaced would come to light again.
            for image in images:
                if image.id not in used:
                    self._retire(image)
        self.sweep()
        return True

    def sweep(self) -> None:
        """Remove what no image and no container needs: replaced images, layers, what dead processes left."""
        with contextlib.ExitStack() as stack:
            gone = []
            with self.unchanging():
                use, names = self._in_use(), set()
                layers = set(use.layers)
                for image in self.all():
                    if image.name in names and image.id not in use.images:
                        self._retire(image)
                    else:
                        names.add(image.name)
                        layers |= image.layers.keys()
                for folder in whole(self._folder.layers):
                    if folder.name not in layers and (path := stack.enter_context(retired(folder))):
                        gone.append(path)
            self._folder.destroy(*gone)
        self._folder.sweep(self._folder.layers)
        self._folder.sweep(self._folder.images)

    def keep(self, upper: Path, image: ImageRecord, frozen: contextlib.AbstractContextManager[None]) -> None:
        """Record an image whose topmost layer is a copy, made within `frozen`, of what a container has written.

        Raises:
            ImageError: it would have too many layers.
        """
        if len(image.layers) >= _MAX_LAYERS:
            raise ImageError(
                f"{image.name} would have more than {_MAX_LAYERS} layers, one per commit; begin with an earlier image"
            )
        name = secrets.token_hex(6)
        with self._new_layers() as new_layer:
            layer = new_layer()
            with frozen:
                self._folder.copy(upper, layer)
            self._publish(image, [name, *image.layers], {name: layer})

    def unpack(self, image: ImageRecord, sources: Sequence[tuple[str, IO[bytes]]]) -> ImageRecord:
        """Record an image of layers as tars, the lowest first; one whose name is there already is not read.

        Raises:
            ImageError: one cannot be unpacked.
        """
        with self._new_layers() as new_layer:
            fresh: dict[str, Path] = {}
            for name, source in sources:
                if name not in fresh and not (self._folder.layers / name).exists():
                    fresh[name] = new_layer()
                    self._unpack_layer(image.name, source, fresh[name])
            own = image.id[:12]
            fresh[own] = new_layer()
            self._folder.request("complete_layer", layer=self._relative(fresh[own]), timeout_s=60)
            return self._publish(image, [own, *(name for name, _ in reversed(sources))], fresh)

    @contextlib.contextmanager
    def _new_layers(self) -> Iterator[Callable[[], Path]]:
        """Yield a function that makes a folder for a layer; removed at the end unless it was given its name."""
        owner = self._folder.id_map.root
        try:
            with contextlib.ExitStack() as stack:
                yield lambda: stack.enter_context(new_folder(self._folder.layers, owner=owner, mode=0o755))
        except BaseException:
            self._folder.sweep(self._folder.layers)
            raise

    def _unpack_layer(self, image: str, source: IO[bytes], layer: Path) -> None:
        ours, theirs = os.pipe()
        feeding = threading.Thread(target=_feed, args=(source, theirs), daemon=True)
        feeding.start()
        try:
            relative = self._relative(layer)
            self._folder.request("unpack_layer", files=[ours], layer=relative, timeout_s=_UNPACK_TIMEOUT_S)
        except ContainerError as error:
            raise ImageError(f"the image {image} cannot be unpacked: {error}") from error
        finally:
            os.close(ours)
            feeding.join()

    def _publish(self, image: ImageRecord, layers: Sequence[str], fresh: Mapping[str, Path]) -> ImageRecord:
        """Give new layers their names and record the image, all at once for every other process."""
        sizes = dict(image.layers)
        for name in layers:
            if name not in sizes:
                sizes[name] = self._folder.size_bytes(fresh.get(name, self._folder.layers / name))
        image = replace(image, layers={name: sizes[name] for name in layers})
        with new_folder(self._folder.images, owner=self._folder.id_map.root) as folder, self.unchanging():
            for name, path in fresh.items():
                if not (self._folder.layers / name).exists():
                    path.rename(self._folder.layers / name)
            if missing := [name for name in layers if not (self._folder.layers / name).exists()]:
                raise ImageError(f"layers of {image.name} were removed meanwhile ({', '.join(missing)}); try again")
            (folder / _RECORD).write_text(json.dumps(asdict(image)))
            folder.rename(self._folder.images / image.folder_name)
        return image

    def _find_all(self, name: str) -> list[ImageRecord]:
        """Return the images of that name or id, the newest first."""
        found = _read(self._folder.images.glob(f"{_digest(with_tag(name))}-*"))
        if not found and len(name) == 32 and name.isalnum():
            found = _read(self._folder.images.glob(f"*-{name}"))
        return found

    def _retire(self, image: ImageRecord) -> None:
        with retired(self._folder.images / image.folder_name):
            pass  # `sweep` removes it

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._folder.path))


def with_tag(name: str) -> str:
    """Return an image's name with the tag that it means: "a/b" is "a/b:latest"."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _read(folders: Iterator[Path]) -> list[ImageRecord]:
    found = [image for folder in folders if (image := ImageRecord.read(folder))]
    return sorted(found, key=lambda image: image.created_ns, reverse=True)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _feed(source: IO[bytes], descriptor: int) -> None:
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
