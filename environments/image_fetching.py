"""Brings the images of a task set outside a run, several at once, until a budget is reached. Removes nothing.

Left out: one pull (`image_pulls.py`), images that come and go while a run works (`image_supply.py`).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from srl_swe.environments.byte_counts import shown_bytes
from srl_swe.environments.engine import Engine, PullProgress
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_order import Room, by_shared_layers
from srl_swe.environments.image_pulls import DEFAULT_PULLS, ImagePuller, PullConfig
from srl_swe.environments.image_uses import using_images
from srl_swe.environments.images import ensure_image
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import ImageSizes, TaskImage, task_images
from srl_swe.errors import DiskFullError, EngineUnavailableError, ImageError
from srl_swe.pool import WorkPool
from srl_swe.types import Instance

_LIMIT_S = 6 * 3600.0
"""Of one image, with all its tries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedImage:
    """What became of an image that was missing."""

    name: str
    size_bytes: int
    duration_s: float
    error: str = ""
    """Why it could not be brought."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetching:
    """What became of all images."""

    num_here: int
    """Before."""
    fetched: tuple[FetchedImage, ...]
    left_out: tuple[str, ...]
    """Names of images that were not begun."""
    stopped_by: str
    """Why; "" = all were begun."""
    used_bytes: int
    """By all that are here now, each layer once."""

    @property
    def num_failed(self) -> int:
        """Images that could not be brought."""
        return sum(bool(each.error) for each in self.fetched)

    @property
    def num_fetched(self) -> int:
        """Images that came."""
        return len(self.fetched) - self.num_failed


class _Fetch:
    """One call of `fetch_images`."""

    def __init__(self, engine: Engine, budget_bytes: int | None, pulls: PullConfig, sizes: ImageSizes) -> None:
        self._engine = engine
        self._budget_bytes = budget_bytes
        self._puller = ImagePuller(engine, pulls)
        self._sizes = sizes
        self.room = Room()
        self.lock = threading.Lock()
        self.stopped_by = ""
        self.num_coming = 0

    def may_start(self, image: TaskImage) -> bool:
        """Reserve the room that an image takes, or stop for good."""
        with self.lock:
            if self.stopped_by:
                return True  # `work` leaves it out
            size, _ = self._sizes.of_all([image])
            layers = size[image.name].layers
            would_take = self.room.used_bytes + self.room.more_bytes(layers)
            if self._budget_bytes is not None and would_take > self._budget_bytes:
                if self.num_coming:
                    return False  # what comes may turn out smaller than expected
                self.stopped_by = (
                    f"with {image.name} they would take {shown_bytes(would_take)} of {shown_bytes(self._budget_bytes)}."
                    " `srl-swe eval --disk-budget` brings and removes images while it works"
                )
            else:
                self.room.put(image.name, layers, measured=False)
                self.num_coming += 1
            return True

    def work(self, image: TaskImage, progress: Callable[[str, int, int], None]) -> FetchedImage | None:
        """Bring an image; None where it was left out."""
        if image.name not in self.room:
            return None
        started = time.monotonic()

        def come(how_far: PullProgress) -> None:
            progress(image.name, how_far.done_bytes, how_far.total_bytes)

        try:
            with using_images(*image.names):
                ensure_image(self._engine, image.environment, pull=partial(self._puller.ensure, progress=come))
        except ImageError as error:
            with self.lock:
                self.num_coming -= 1
                self.room.take(image.name)
                if isinstance(error, DiskFullError):
                    self.stopped_by = self.stopped_by or "the engine's disk is full"
            return FetchedImage(name=image.name, size_bytes=0, duration_s=time.monotonic() - started, error=str(error))
        return self._arrived(image, time.monotonic() - started)

    def _arrived(self, image: TaskImage, duration_s: float) -> FetchedImage:
        size = self._sizes.here(image)
        with self.lock:
            self.num_coming -= 1
            if size is not None:
                self.room.put(image.name, size.layers, measured=True)
        return FetchedImage(name=image.name, size_bytes=size.total_bytes if size else 0, duration_s=duration_s)


def fetch_images(
    engine: Engine,
    instances: Sequence[Instance],
    *,
    budget_bytes: int | None,
    pulls: PullConfig = DEFAULT_PULLS,
    finished: Callable[[FetchedImage, int, int], None] = lambda image, num_done, num_all: None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Fetching:
    """Pull or build what the engine lacks. `finished` is told each image, how many are done, and of how many.

    `progress` is told (name, compressed bytes that came, of how many) from several threads.

    Raises:
        EngineUnavailableError: no engine answers any more.
        ContainerError: the engine failed otherwise.
    """
    registries = Registries() if budget_bytes is not None else None
    sizes = ImageSizes(engine, ImageLedger(engine.identity), pulls, registries=registries)
    images = task_images(instances)
    known, _ = sizes.of_all(images)
    fetch = _Fetch(engine, budget_bytes, pulls, sizes)
    missing: list[TaskImage] = []
    left_out: list[str] = []
    for image in by_shared_layers(images, known):
        if known[image.name].known_from == "engine":
            fetch.room.put(image.name, known[image.name].layers, measured=True)
        elif engine.can_pull or image.environment.recipe is not None:
            missing.append(image)
        else:
            left_out.append(image.name)
    no_registry = "this engine reads no registry, so they have to come as files (docs/images.md)" if left_out else ""
    fetched: list[FetchedImage] = []
    pool = WorkPool(pulls.pulls_at_once)
    for image, outcome in pool.run(
        missing, lambda image: fetch.work(image, progress), limit_s=lambda _: _LIMIT_S, may_start=fetch.may_start
    ):
        if outcome is None:
            left_out.append(image.name)
        elif isinstance(outcome, FetchedImage):
            fetched.append(outcome)
            finished(outcome, len(fetched), len(missing))
        elif isinstance(outcome, TimeoutError) and not isinstance(outcome, EngineUnavailableError):
            fetched.append(FetchedImage(name=image.name, size_bytes=0, duration_s=_LIMIT_S, error=str(outcome)))
            finished(fetched[-1], len(fetched), len(missing))
        else:
            raise outcome
    return Fetching(
        num_here=sum(size.known_from == "engine" for size in known.values()),
        fetched=tuple(fetched),
        left_out=tuple(left_out),
        stopped_by="; ".join(filter(None, [no_registry, fetch.stopped_by])),
        used_bytes=fetch.room.used_bytes,
    )
