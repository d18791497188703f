"""Small images in a registry of this machine, and what of them an engine has."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from srl_swe.environments.engine import Engine
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests
from tests.environments.local_registry import Layer, LocalRegistry, layer, local_registry

MB = 1_000_000


def instance_of(image: str, number: int = 0) -> Instance:
    """Return an instance that is never run."""
    return Instance(
        instance_id=f"{image.rpartition('/')[2].replace(':', '-')}-{number}",
        repo="a/b",
        base_commit="",
        problem_statement="",
        environment=InstanceEnvironment(image=image),
        tests=InstanceTests(script="true", parser="parse_log_pytest", fail_to_pass=("t",), pass_to_pass=()),
        gold_patch="x",
    )


@dataclass(kw_only=True, slots=True)
class ImageWorld:
    """A registry, and the images made in it."""

    engine: Engine
    registry: LocalRegistry
    layers: dict[str, tuple[Layer, ...]] = field(default_factory=dict)
    """By name of image."""

    @property
    def ledger(self) -> ImageLedger:
        return ImageLedger(self.engine.identity)

    def image(self, repository: str, *sizes: tuple[str, float], is_packed: bool = True) -> str:
        """Serve an image of layers given as (name of its file, megabytes); the same twice is the same layer."""
        layers = tuple(layer(name, round(size * MB), is_packed=is_packed) for name, size in sizes)
        name = self.registry.put(f"t/{repository}", layers)
        self.layers[name] = layers
        return name

    def here(self, names: Sequence[str] | None = None) -> set[str]:
        """Return which images the engine has."""
        wanted = self.layers if names is None else names
        return {name for name in wanted if self.engine.find_image(name) is not None}

    def used_bytes(self) -> int:
        """Return what the images that the engine has take, by what was put into their layers."""
        layers = [layer for name in self.here() for layer in self.layers[name]]
        return sum({layer.digest: layer.size_bytes for layer in layers}.values())


@contextmanager
def image_world(engine: Engine) -> Iterator[ImageWorld]:
    """Serve images; what came of them is removed at the end."""
    with local_registry() as registry:
        world = ImageWorld(engine=engine, registry=registry)
        try:
            yield world
        finally:
            for name in world.layers:
                engine.remove_image(name)
