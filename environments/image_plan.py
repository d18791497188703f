"""What a run over the images of a task set will take: what is here, what is missing, the order, the highest disk use.

Pulls and removes nothing. Left out: how it is shown (`srl_swe.cli.images`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from srl_swe.environments.engine import Engine
from srl_swe.environments.image_eviction import ImageEviction
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_order import Forecast, by_shared_layers, forecast
from srl_swe.environments.image_pulls import DEFAULT_PULLS, PullConfig
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import ImageSize, ImageSizes, TaskImage, task_images, union_bytes
from srl_swe.types import Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedImage:
    """An image of the plan."""

    image: TaskImage
    size: ImageSize
    here: bool
    stays: str
    """Why it is never removed; "" = it may be, or it is not here."""
    more_bytes: int
    """What it takes on top of the images before it in the order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePlan:
    """All images in the order in which a run takes them."""

    images: tuple[PlannedImage, ...]
    num_instances: int
    total_bytes: int
    """Of all images, as if nothing were shared."""
    unique_bytes: int
    """Of all images, each layer once."""
    here_bytes: int
    """Of those that are here, each layer once."""
    missing_bytes: int
    """What those that are missing add, on disk."""
    download_bytes: int
    """What of that is to be downloaded, compressed, of the images whose registry answered."""
    smallest_budget_bytes: int
    """Below this some image does not fit: what is never removed, and the largest image on top."""
    forecast: Forecast
    problems: tuple[str, ...]
    """What could not be found out, in words."""

    @property
    def num_here(self) -> int:
        """Images that the engine has."""
        return sum(planned.here for planned in self.images)


def plan_images(
    engine: Engine,
    instances: Sequence[Instance],
    *,
    budget_bytes: int | None,
    at_once: int,
    pulls: PullConfig = DEFAULT_PULLS,
    ask_registries: bool = True,
) -> ImagePlan:
    """Look at all images of the instances; `at_once` of them are in use or on their way at a time.

    Raises:
        ContainerError: the engine failed.
    """
    ledger, registries = ImageLedger(engine.identity), Registries()
    images = task_images(instances)
    asked = registries if ask_registries else None
    sizes, problems = ImageSizes(engine, ledger, pulls, registries=asked).of_all(images)
    eviction = ImageEviction(engine, ledger, pulls, registries)
    here = [image.name for image in images if sizes[image.name].known_from == "engine"]
    stays = {image.name: eviction.why_kept(image) for image in images if sizes[image.name].known_from == "engine"}
    ordered = by_shared_layers(images, sizes)
    seen: set[str] = set()
    planned = []
    for image in ordered:
        fresh = {layer.key: layer.size_bytes for layer in sizes[image.name].layers if layer.key not in seen}
        seen |= fresh.keys()
        planned.append(
            PlannedImage(
                image=image,
                size=sizes[image.name],
                here=image.name in stays,
                stays=stays.get(image.name, ""),
                more_bytes=sum(fresh.values()),
            )
        )
    unique, here_bytes = union_bytes(sizes.values()), union_bytes(sizes[name] for name in here)
    there = {layer.key for name in here for layer in sizes[name].layers}
    downloads = {
        key: count
        for name, size in sizes.items()
        if name not in stays
        for key, count in size.download_bytes.items()
        if key not in there
    }
    staying = [sizes[name] for name, why in stays.items() if why]
    return ImagePlan(
        images=tuple(planned),
        num_instances=len(instances),
        total_bytes=sum(size.total_bytes for size in sizes.values()),
        unique_bytes=unique,
        here_bytes=here_bytes,
        missing_bytes=unique - here_bytes,
        download_bytes=sum(downloads.values()),
        smallest_budget_bytes=max(union_bytes([*staying, size]) for size in sizes.values()),
        forecast=forecast(
            ordered,
            sizes,
            here=here,
            staying=[name for name, why in stays.items() if why],
            budget_bytes=budget_bytes,
            at_once=at_once,
        ),
        problems=tuple(problems),
    )
