"""Can a disk budget hold every image of a run? Asked before work begins.

Pure: asks no engine. Left out: keeping the budget (`image_supply.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from srl_swe.environments.byte_counts import shown_bytes
from srl_swe.environments.engine import ImageLayer
from srl_swe.environments.image_order import Room
from srl_swe.environments.task_images import ImageSize
from srl_swe.errors import ConfigError


def sizes_within(budget_bytes: int, sizes: Mapping[str, ImageSize], *, staying: Iterable[str]) -> dict[str, ImageSize]:
    """Return the sizes of images by name, those that are only estimated cut to what the budget leaves for one alone.

    `staying` names the images that are never removed.

    Raises:
        ConfigError: an image is larger than that by all that is known, or what stays is.
    """
    fixed, found = Room(), dict(sizes)
    for name in staying:
        fixed.put(name, sizes[name].layers, measured=True)
    what = f"disk budget of {shown_bytes(budget_bytes)}"
    if fixed.used_bytes > budget_bytes:
        raise ConfigError(
            f"{what}: the images of these instances that are only here, and are never removed, take "
            f"{shown_bytes(fixed.used_bytes)}; give at least that"
        )
    for name, size in sizes.items():
        needed = fixed.used_bytes + fixed.more_bytes(size.layers)
        least = fixed.used_bytes + fixed.more_bytes(_at_least(size))
        if least > budget_bytes:
            beside = f", with {shown_bytes(fixed.used_bytes)} for images that are only here and are never removed"
            raise ConfigError(
                f"{what}: the image {name} needs {shown_bytes(least)}"
                f"{beside if fixed.used_bytes else ''}; give at "
                "least that. `srl-swe images plan` shows what each image takes"
            )
        if needed > budget_bytes:
            # Perhaps it fits: it is brought alone, and then measured.
            found[name] = _shrunk(size, needed - budget_bytes)
    return found


def _at_least(size: ImageSize) -> list[ImageLayer]:
    """Return the layers with what they take for certain: estimated ones what is to be downloaded of them."""
    if size.known_from in ("engine", "earlier"):
        return list(size.layers)
    return [replace(layer, size_bytes=size.download_bytes.get(layer.key, 0)) for layer in size.layers]


def _shrunk(size: ImageSize, too_many_bytes: int) -> ImageSize:
    layers = []
    for layer in reversed(size.layers):
        less = min(layer.size_bytes, too_many_bytes)
        too_many_bytes -= less
        layers.append(replace(layer, size_bytes=layer.size_bytes - less))
    return replace(size, layers=tuple(reversed(layers)))
