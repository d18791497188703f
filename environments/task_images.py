"""The images that the instances of a task set start from, each once; what they take on disk, as far as it is known.

Left out: in which order they come (`image_order.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from srl_swe.environments.docker_images import chain_keys
from srl_swe.environments.engine import Engine, ImageLayer
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_names import BASE_IMAGE, parent_image_name
from srl_swe.environments.image_pulls import PullConfig
from srl_swe.environments.image_references import ImageReference
from srl_swe.environments.images import PARENT_LABEL
from srl_swe.environments.preparation import PREPARED_LABEL
from srl_swe.environments.registry import NoSuchImageError, Registries, RegistryUnreachableError, RemoteImage
from srl_swe.errors import ImageError, PullThrottledError
from srl_swe.types import DerivedRecipe, Instance, InstanceEnvironment

UNPACKED_FACTOR = 3.0
"""Bytes on disk per compressed byte, assumed of layers that were never here."""
_ASSUMED_PULLED_BYTES = 4_000_000_000
"""Of an image of which nothing is known."""
_ASSUMED_PACKAGE_BYTES = 300_000_000
_ASSUMED_BUG_BYTES = 100_000_000
_REQUESTS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskImage:
    """An image that instances start from."""

    environment: InstanceEnvironment
    instance_ids: tuple[str, ...]
    repo: str
    """Of the first of its instances."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.environment.image

    @property
    def names(self) -> tuple[str, ...]:
        """Itself, and what one that is built here stands on: its package's image, or a published one."""
        parent = parent_image_name(self.environment)
        return (self.name,) if parent is None else (self.name, parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSize:
    """What an image takes on disk."""

    layers: tuple[ImageLayer, ...]
    """Lowest first."""
    known_from: Literal["engine", "earlier", "registry", "nothing"]
    """"engine": measured here. "earlier": measured when it was here. "registry": layers known, bytes estimated.
    "nothing": assumed."""
    download_bytes: Mapping[str, int]
    """Compressed bytes by layer key; empty where no registry was asked."""

    @property
    def total_bytes(self) -> int:
        """Of all layers."""
        return sum(layer.size_bytes for layer in self.layers)


def task_images(instances: Iterable[Instance]) -> list[TaskImage]:
    """Return the images of instances, in the order in which they come first."""
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.environment.image, []).append(instance)
    return [
        TaskImage(
            environment=group[0].environment,
            instance_ids=tuple(instance.instance_id for instance in group),
            repo=group[0].repo,
        )
        for group in groups.values()
    ]


class ImageSizes:
    """Asks the engine, then the ledger, then the registry."""

    def __init__(
        self,
        engine: Engine,
        ledger: ImageLedger,
        pulls: PullConfig,
        *,
        registries: Registries | None,
    ) -> None:
        """`registries` None: none is asked."""
        self._engine = engine
        self._ledger = ledger
        self._pulls = pulls
        self._registries = registries if engine.can_pull else None
        self._silent: set[str] = set()
        """Hosts of registries that are asked no longer."""

    def of_all(self, images: Sequence[TaskImage]) -> tuple[dict[str, ImageSize], list[str]]:
        """Return the sizes by image name, and what could not be found out, in words.

        Raises:
            ContainerError: the engine failed.
        """
        problems: list[str] = []
        prepared = self._prepared()

        def find(image: TaskImage) -> ImageSize:
            size = self._here(image, prepared)
            return size if size is not None else self._elsewhere(image, problems)

        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            sizes = dict(zip((image.name for image in images), pool.map(find, images), strict=True))
        measured = {
            layer.key: layer
            for size in sizes.values()
            if size.known_from in ("engine", "earlier")
            for layer in size.layers
        }
        return {name: replace(size, layers=_better(size.layers, measured)) for name, size in sizes.items()}, problems

    def here(self, image: TaskImage) -> ImageSize | None:
        """Return the size of an image that the engine has with what was prepared of it, None where it lacks it.

        Raises:
            ContainerError: the engine failed.
        """
        return self._here(image, self._prepared())

    def _here(self, image: TaskImage, prepared: Mapping[str, Sequence[str]]) -> ImageSize | None:
        info = self._engine.find_image(image.name)
        if info is None:
            return None
        layers: dict[str, ImageLayer] = {}
        for name in (*reversed(image.names), *prepared.get(info.id, ())):
            layers |= {layer.key: layer for layer in self._engine.image_layers(name)}
        return ImageSize(layers=tuple(layers.values()), known_from="engine", download_bytes={})

    def _prepared(self) -> dict[str, list[str]]:
        """Return the ids of prepared images by the id of the image that each is made of."""
        found: dict[str, list[str]] = {}
        for image in self._engine.list_images(PREPARED_LABEL):
            if image.labels[PREPARED_LABEL]:  # blank on a snapshot
                found.setdefault(image.labels.get(PARENT_LABEL, ""), []).append(image.id)
        return found

    def _elsewhere(self, image: TaskImage, problems: list[str]) -> ImageSize:
        record = self._ledger.find(image.name)
        if record.layers:
            return ImageSize(layers=record.layers, known_from="earlier", download_bytes=_downloads(record.remote))
        if image.environment.recipe is not None:
            return self._of_build(image, problems)
        # Nothing will come, for which others would have to go, to an engine that reads no registry.
        remote, assumed = record.remote, _ASSUMED_PULLED_BYTES if self._engine.can_pull else 0
        source = self._pulls.source(image.name) if remote is None and self._may_ask(image.name, problems) else ""
        if source and self._registries is not None:
            try:
                remote = self._registries.find(source, architecture=self._engine.architecture)
                self._ledger.note_remote(image.name, remote)
            except (PullThrottledError, RegistryUnreachableError) as error:
                host = ImageReference.parse(source).host
                if host not in self._silent:
                    problems.append(f"{error}; images of this registry were asked for no longer")
                self._silent.add(host)
            except NoSuchImageError as error:
                problems.append(str(error))
                assumed = 0
            except ImageError as error:
                problems.append(str(error))
        if remote is None:
            # Kept together by repository: they are likely to share layers.
            own = ImageLayer(key=f"unknown {image.name}", size_bytes=assumed)
            shared = ImageLayer(key=f"unknown of {image.repo}", size_bytes=0)
            return ImageSize(layers=(shared, own), known_from="nothing", download_bytes={})
        keys = chain_keys([layer.diff_id for layer in remote.layers])
        layers = tuple(
            ImageLayer(key=key, size_bytes=round(layer.size_bytes * (UNPACKED_FACTOR if layer.packed else 1)))
            for key, layer in zip(keys, remote.layers, strict=True)
        )
        return ImageSize(layers=layers, known_from="registry", download_bytes=_downloads(remote))

    def _may_ask(self, name: str, problems: list[str]) -> bool:
        try:
            return ImageReference.parse(self._pulls.source(name)).host not in self._silent
        except ImageError as error:
            problems.append(str(error))
            return False

    def _of_build(self, image: TaskImage, problems: list[str]) -> ImageSize:
        package = image.names[-1]
        below = self._engine.image_layers(package) or self._ledger.find(package).layers
        if not below and isinstance(image.environment.recipe, DerivedRecipe):
            published = replace(image, environment=InstanceEnvironment(image=package))
            below = self._elsewhere(published, problems).layers
        elif not below:
            package_layer = ImageLayer(key=f"unknown {package}", size_bytes=_ASSUMED_PACKAGE_BYTES)
            below = (*self._engine.image_layers(BASE_IMAGE), package_layer)
        own = ImageLayer(key=f"unknown {image.name}", size_bytes=_ASSUMED_BUG_BYTES)
        return ImageSize(layers=(*below, own), known_from="nothing", download_bytes={})


def _downloads(remote: RemoteImage | None) -> dict[str, int]:
    if remote is None:
        return {}
    keys = chain_keys([layer.diff_id for layer in remote.layers])
    return {key: layer.size_bytes for key, layer in zip(keys, remote.layers, strict=True)}


def _better(layers: Sequence[ImageLayer], measured: Mapping[str, ImageLayer]) -> tuple[ImageLayer, ...]:
    return tuple(measured.get(layer.key, layer) for layer in layers)


def union_bytes(sizes: Iterable[ImageSize]) -> int:
    """Return what images take together: each layer once."""
    return sum({layer.key: layer.size_bytes for size in sizes for layer in size.layers}.values())
