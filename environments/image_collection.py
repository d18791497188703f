"""Removes images outside a run until the rest fits into a budget. Left out: which may go (`image_eviction.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from srl_swe.environments.engine import Engine
from srl_swe.environments.image_eviction import ImageEviction
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_order import Room
from srl_swe.environments.image_pulls import DEFAULT_PULLS, PullConfig
from srl_swe.environments.image_uses import last_used
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import ImageSizes, TaskImage, task_images
from srl_swe.types import Instance, InstanceEnvironment


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """What was removed, or would be."""

    removed: tuple[tuple[str, int], ...]
    """(name, bytes that its removal frees, given those before), the least recently used first."""
    kept: tuple[tuple[str, str], ...]
    """(name, why it stays), of those that had to go for the budget."""
    before_bytes: int
    """What the images took, each layer once."""

    @property
    def freed_bytes(self) -> int:
        """What was freed in all."""
        return sum(freed for _, freed in self.removed)


def collect_images(
    engine: Engine,
    instances: Sequence[Instance] | None,
    *,
    budget_bytes: int,
    pulls: PullConfig = DEFAULT_PULLS,
    dry_run: bool = False,
) -> Collection:
    """Remove images of the instances (None: all that this tool pulled), the least recently used first.

    Raises:
        ContainerError: the engine failed.
    """
    ledger, registries = ImageLedger(engine.identity), Registries()
    eviction = ImageEviction(engine, ledger, pulls, registries)
    sizes = ImageSizes(engine, ledger, pulls, registries=None)
    images = task_images(instances) if instances is not None else _pulled(ledger)
    room = Room()
    here: list[TaskImage] = []
    for image in images:
        if (size := sizes.here(image)) is not None:
            here.append(image)
            room.put(image.name, size.layers, measured=True)
    before = room.used_bytes
    removed: list[tuple[str, int]] = []
    kept: list[tuple[str, str]] = []
    for image in sorted(here, key=lambda image: last_used(image.name)):
        if room.used_bytes <= budget_bytes:
            break
        outcome = eviction.evict(image, dry_run=dry_run)
        if outcome.removed:
            removed.append((image.name, room.take(image.name)))
        else:
            kept.append((image.name, outcome.why_not))
    return Collection(removed=tuple(removed), kept=tuple(kept), before_bytes=before)


def _pulled(ledger: ImageLedger) -> list[TaskImage]:
    environments = [InstanceEnvironment(image=name) for name in ledger.pulled_names()]
    return [TaskImage(environment=environment, instance_ids=(), repo="") for environment in environments]
