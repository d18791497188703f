"""In which order images come so that those with common layers follow each other, and what the disk holds meanwhile.

Pure: asks no engine. Left out: who brings and removes the images (`image_supply.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from srl_swe.environments.engine import ImageLayer
from srl_swe.environments.task_images import ImageSize, TaskImage


@dataclass(slots=True)
class _Branch:
    """Images that have the same layers up to here."""

    images: list[TaskImage] = field(default_factory=list)
    above: "dict[str, _Branch]" = field(default_factory=dict)


def by_shared_layers(images: Sequence[TaskImage], sizes: Mapping[str, ImageSize]) -> list[TaskImage]:
    """Return the images so that those which share most layers are neighbours; else the given order stays."""
    root = _Branch()
    for image in images:
        branch = root
        for layer in sizes[image.name].layers:
            branch = branch.above.setdefault(layer.key, _Branch())
        branch.images.append(image)
    ordered: list[TaskImage] = []
    waiting = [root]
    while waiting:
        branch = waiting.pop()
        ordered += branch.images
        waiting += reversed(branch.above.values())
    return ordered


class Room:
    """What a set of images takes, each layer once. What was measured of a layer counts before what was estimated."""

    def __init__(self) -> None:
        self._images: dict[str, tuple[str, ...]] = {}
        """Keys of layers by name of image."""
        self._users: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._measured: set[str] = set()
        self.used_bytes = 0
        """By all of them together."""

    def __contains__(self, name: str) -> bool:
        return name in self._images

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images."""
        return tuple(self._images)

    def put(self, name: str, layers: Iterable[ImageLayer], *, measured: bool) -> None:
        """Count an image in, or anew with other layers."""
        self.take(name)
        sizes = {layer.key: layer.size_bytes for layer in layers}
        for key, size in sizes.items():
            known = self._size(key, size)
            if measured and size != known:
                self.used_bytes += (size - known) if self._users[key] else 0
                known = size
            self._sizes[key] = known
            if measured:
                self._measured.add(key)
            if not self._users[key]:
                self.used_bytes += known
            self._users[key] += 1
        self._images[name] = tuple(sizes)

    def take(self, name: str) -> int:
        """Count an image out where it is in; return the bytes that this frees."""
        before = self.used_bytes
        for key in self._images.pop(name, ()):
            self._users[key] -= 1
            if not self._users[key]:
                self.used_bytes -= self._sizes[key]
        return before - self.used_bytes

    def more_bytes(self, layers: Iterable[ImageLayer]) -> int:
        """Return what an image would take on top."""
        sizes = {layer.key: self._size(layer.key, layer.size_bytes) for layer in layers if not self._users[layer.key]}
        return sum(sizes.values())

    def _size(self, key: str, estimate: int) -> int:
        return self._sizes[key] if key in self._measured or self._users[key] else estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run over all images does to the disk."""

    peak_bytes: int
    num_evictions: int
    num_fetched: int
    """Images that have to come, some more than once."""


def forecast(
    ordered: Sequence[TaskImage],
    sizes: Mapping[str, ImageSize],
    *,
    here: Iterable[str],
    staying: Iterable[str],
    budget_bytes: int | None,
    at_once: int,
) -> Forecast:
    """Go through the images in order, `at_once` of them in use; where room lacks, what is needed least leaves.

    `here` are the names of those that the engine has, `staying` of those among them that are never removed.
    """
    room, staying = Room(), set(staying)
    positions = {image.name: number for number, image in enumerate(ordered)}
    for name in here:
        room.put(name, sizes[name].layers, measured=True)
    num_evictions, num_fetched = 0, 0
    needed_last = sorted((name for name in room.names if name not in staying), key=positions.__getitem__)
    while budget_bytes is not None and room.used_bytes > budget_bytes and needed_last:
        room.take(needed_last.pop())
        num_evictions += 1
    peak = room.used_bytes
    for number, image in enumerate(ordered):
        if image.name in room:
            continue
        num_fetched += 1
        first_held = number - at_once + 1
        while budget_bytes is not None and room.used_bytes + room.more_bytes(sizes[image.name].layers) > budget_bytes:
            others = [name for name in room.names if name not in staying]
            # First those that nothing needs any more, then those that are needed last. Where there are only such as
            # are in use, a run waits until fewer of them are.
            done = [name for name in others if positions[name] < first_held]
            later = [name for name in others if positions[name] > number]
            held = [name for name in others if first_held <= positions[name] < number]
            victims = sorted(done, key=positions.__getitem__) + sorted(later, key=positions.__getitem__, reverse=True)
            victims += sorted(held, key=positions.__getitem__)
            if not victims:
                break
            room.take(victims[0])
            num_evictions += 1
        room.put(image.name, sizes[image.name].layers, measured=False)
        peak = max(peak, room.used_bytes)
    return Forecast(peak_bytes=peak, num_evictions=num_evictions, num_fetched=num_fetched)
