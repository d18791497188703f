"""Brings the images of a run while it works, in order and a few ahead, and keeps the disk that they take in a budget.

Work asks to be admitted (room is made by removing the least recently used image that the run needs least), fetches
its image, and releases it. One that is in use, or that might not come back, is never removed. Left out: what work is
(`srl_swe.evaluation`), one pull (`image_pulls.py`), one removal (`image_eviction.py`).
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from srl_swe.closing import Closing
from srl_swe.environments.byte_counts import shown_bytes
from srl_swe.environments.engine import Engine, PullProgress
from srl_swe.environments.image_budget import sizes_within
from srl_swe.environments.image_eviction import ImageEviction
from srl_swe.environments.image_order import Room, by_shared_layers
from srl_swe.environments.image_pulls import DEFAULT_PULLS, ImagePuller, PullConfig
from srl_swe.environments.image_uses import last_used, using_images
from srl_swe.environments.images import ensure_image
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import ImageSize, ImageSizes, TaskImage, task_images
from srl_swe.errors import ContainerError, EngineUnavailableError, ImageError
from srl_swe.types import Instance

LOGGER = logging.getLogger(__name__)

_TICK_S = 0.5
_STOP_LIMIT_S = 3.0
"""How long the end waits for pulls; the engine ends them with this process."""
_ROOM_LIMIT_S = 6 * 3600.0
"""Work that has waited so long for room waits for something that hangs."""
_OUTSIDE_LIMIT_S = 900.0
"""How long work waits for room that only something outside the run keeps."""
_ASK_AGAIN_S = 20.0
"""After which the removal of an image that something else used is tried again."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Stock:
    """An image of the run, and where it stands."""

    image: TaskImage
    size: ImageSize
    position: int
    """In the order."""
    status: Literal["absent", "wanted", "coming", "here", "failed"]
    stays: str = ""
    """Why it is never removed."""
    users: int = 0
    """Admitted work."""
    left: int = 0
    """Work that is still to come, admitted or not."""
    error: Exception | None = None
    tried: bool = False
    """Whether it failed to come before work asked for it."""
    used: float = 0.0
    """When it was released last, in seconds since the epoch."""
    refused: float = 0.0
    """Monotonic time since which work on it waits for room; 0 = none does."""
    kept_until: float = 0.0
    """Monotonic time before which its removal is not tried again, as something outside the run uses it."""

    @property
    def may_go(self) -> bool:
        """Whether it can be removed, as far as the run knows."""
        return self.status == "here" and not self.users and not self.stays and time.monotonic() >= self.kept_until


class ImageSupply(Closing):
    """The images of one run. Safe for threads; close it."""

    def __init__(
        self,
        engine: Engine,
        instances: Sequence[Instance],
        *,
        budget_bytes: int | None,
        pulls: PullConfig = DEFAULT_PULLS,
        ahead: int = 2,
    ) -> None:
        """Look at what is here; nothing is pulled or removed before the first work is admitted.

        `ahead`: images fetched before their work begins. `budget_bytes` None = no bound.

        Raises:
            ConfigError: the budget cannot hold every image of the run; the message says what could.
            ContainerError: the engine failed.
        """
        self._engine = engine
        self._budget_bytes = budget_bytes
        self._ahead = ahead
        registries = Registries()
        self._puller = ImagePuller(engine, pulls, registries=registries)
        self._eviction = ImageEviction(engine, self._puller.ledger, pulls, registries)
        self._sizes = ImageSizes(engine, self._puller.ledger, pulls, registries=registries if budget_bytes else None)
        images = task_images(instances)
        sizes, problems = self._sizes.of_all(images)
        for problem in problems[:5]:
            LOGGER.warning("size of an image unknown before its pull: %s", problem)
        self._stocks: dict[str, _Stock] = {}
        self._room = Room()
        stays = {image.name: self._eviction.why_kept(image) for image in images} if budget_bytes is not None else {}
        if budget_bytes is not None:
            sizes = sizes_within(budget_bytes, sizes, staying=[name for name, why in stays.items() if why])
        for position, image in enumerate(by_shared_layers(images, sizes)):
            here = sizes[image.name].known_from == "engine"
            self._stocks[image.name] = _Stock(
                image=image,
                size=sizes[image.name],
                position=position,
                status="here" if here else "absent",
                stays=stays.get(image.name, ""),
                used=last_used(image.name),
            )
            if here:
                self._room.put(image.name, sizes[image.name].layers, measured=True)
        self._changed = threading.Condition()
        self._closed = False
        self._trimmed = False
        self._furthest = -1
        """Position of the last image that work asked for."""
        self._threads = [
            threading.Thread(target=self._work, name="images", daemon=True) for _ in range(pulls.pulls_at_once)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def used_bytes(self) -> int:
        """What the run's images take or are about to take."""
        return self._room.used_bytes

    def ordered(self, instances: Sequence[Instance], *, uses: int = 1) -> list[Instance]:
        """Return instances so that those of an image, and images with common layers, follow each other.

        They are the work that is left, `uses` times on each: images of others are not fetched ahead any more.
        """
        with self._changed:
            for stock in self._stocks.values():
                stock.left = 0
            for instance in instances:
                self._stocks[instance.environment.image].left += uses
        return sorted(instances, key=lambda instance: self._stocks[instance.environment.image].position)

    def admit(self, instance: Instance) -> bool:
        """Make room for an instance's image and keep it from being removed; False where work has to wait for room.

        Never waits for other work. Each time that it returns True wants a `release`.
        """
        with self._changed:
            stock = self._stocks[instance.environment.image]
            if self._closed:
                return True  # `fetch` says why not
            if not self._trimmed:
                self._trimmed = True
                self._fit(None)
            if stock.status == "absent" and not self._make_room(stock, needed=True):
                stock.refused = stock.refused or time.monotonic()
                if time.monotonic() - stock.refused < self._wait_limit_s():
                    return False
                stock.status, stock.error = "failed", ImageError(self._no_room(stock))
            if stock.status == "absent":
                self._expect(stock)
            stock.refused = 0.0
            stock.users += 1
            self._furthest = max(each.position for each in self._stocks.values() if each.users)
            self._changed.notify_all()
            return True

    def fetch(self, instance: Instance) -> None:
        """Wait until the image of an admitted instance is here.

        Raises:
            ImageError: it could be neither pulled nor built; what failed once fails at once for the rest of the run.
            EngineUnavailableError: the engine does not answer any more.
        """
        stock = self._stocks[instance.environment.image]
        with self._changed:
            while stock.status in ("wanted", "coming") and not self._closed:
                self._changed.wait(_TICK_S)
            if stock.error is not None:
                kind = EngineUnavailableError if isinstance(stock.error, EngineUnavailableError) else ImageError
                raise kind(str(stock.error)) from stock.error
            if self._closed:
                raise ImageError(f"{stock.image.name}: the run ended before the image came")

    def release(self, instance: Instance) -> None:
        """Say that admitted work on an instance has ended."""
        with self._changed:
            stock = self._stocks[instance.environment.image]
            stock.users -= 1
            stock.left -= 1
            stock.used = time.time()
            if stock.status == "here" and self._budget_bytes is not None:
                self._measure(stock)
            self._changed.notify_all()

    @contextmanager
    def fetched(self, instance: Instance) -> Iterator[None]:
        """Hold the image of an instance that was admitted, from when it is here on; released at the end."""
        try:
            self.fetch(instance)
            with using_images(*self._stocks[instance.environment.image].image.names):
                yield
        finally:
            self.release(instance)

    def stop(self) -> None:
        """Let work that waits for images fail, and bring nothing more; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """End what is being pulled, and bring nothing more; idempotent. The images stay."""
        self.stop()
        deadline = time.monotonic() + _STOP_LIMIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wait_limit_s(self) -> float:
        """Return how long work may wait for room: not at all, where nothing could make any."""
        stocks = self._stocks.values()
        if any((each.users and each.status != "failed") or each.status in ("wanted", "coming") for each in stocks):
            return _ROOM_LIMIT_S
        return _OUTSIDE_LIMIT_S if any(each.kept_until > time.monotonic() for each in stocks) else 0.0

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (stock := self._next()) is None:
                    self._changed.wait()
                if self._closed or stock is None:
                    return
                stock.status = "coming"
            error = self._bring(stock)
            with self._changed:
                if error is None:
                    stock.status = "here"
                    self._measure(stock)
                    error = self._fit(stock)
                if error is not None:
                    self._room.take(stock.image.name)
                    # What nobody asked for yet is tried again when somebody does.
                    stock.status = "failed" if stock.users else "absent"
                    stock.error = error if stock.users else None
                    stock.tried = True
                self._changed.notify_all()

    def _bring(self, stock: _Stock) -> Exception | None:
        image = stock.image
        try:
            with using_images(*image.names):
                pull = partial(self._puller.ensure, progress=self._require_open, sleep=self._sleep)
                ensure_image(self._engine, image.environment, pull=pull)
        except ContainerError as error:
            return error
        except Exception as error:
            # The border where a thread's failure becomes that of the work that waits for it.
            LOGGER.exception("bringing %s failed", image.name)
            return error
        return None

    def _next(self) -> _Stock | None:
        """Return what is to be brought now: what work waits for, else what it will need soon and has room."""
        wanted = [stock for stock in self._stocks.values() if stock.status == "wanted"]
        if wanted:
            # What work waits for is brought before what it only will need.
            return min(wanted, key=lambda stock: (stock.users == 0, stock.position))
        for stock in self._stocks.values():  # in order
            if stock.position > self._furthest + self._ahead or self._furthest < 0:
                return None
            if stock.position > self._furthest and stock.left > 0 and stock.status == "absent" and not stock.tried:
                if not self._make_room(stock, needed=False):
                    return None
                self._expect(stock)
                return stock
        return None

    def _expect(self, stock: _Stock) -> None:
        stock.status = "wanted"
        self._room.put(stock.image.name, stock.size.layers, measured=False)

    def _make_room(self, stock: _Stock, *, needed: bool) -> bool:
        """Remove images until one fits; for one that is only expected, none that is needed sooner than it."""
        if self._budget_bytes is None:
            return True
        while self._room.used_bytes + self._room.more_bytes(stock.size.layers) > self._budget_bytes:
            victims = [
                each
                for each in self._stocks.values()
                if each.may_go
                and each is not stock
                and (needed or not each.left or not self._furthest <= each.position < stock.position)
            ]
            if not victims:
                return False
            self._remove(min(victims, key=self._worth))
        return True

    def _fit(self, arrived: _Stock | None) -> ImageError | None:
        """Come below the budget, where an image is larger than expected too; return why that cannot be used at all."""
        if self._budget_bytes is None:
            return None
        while self._room.used_bytes > self._budget_bytes:
            victims = [each for each in self._stocks.values() if each.may_go and each is not arrived]
            if victims:
                self._remove(min(victims, key=self._worth))
                continue
            if arrived is None or any(each.users and each is not arrived for each in self._stocks.values()):
                over = self._room.used_bytes - self._budget_bytes
                LOGGER.warning("the images in use take %s more than the disk budget", shown_bytes(over))
                return None
            error = ImageError(self._no_room(arrived))
            try:
                self._eviction.evict(arrived.image)
            except ContainerError as failure:
                LOGGER.warning("%s could not be removed: %s", arrived.image.name, failure)
            return error
        return None

    def _worth(self, stock: _Stock) -> tuple[bool, float, int]:
        """Order what could go: what no work is left for, the least recently used first; then what is needed last."""
        return (stock.left > 0, stock.used if stock.left <= 0 else 0.0, -stock.position)

    def _remove(self, stock: _Stock) -> None:
        try:
            outcome = self._eviction.evict(stock.image)
        except ContainerError as error:
            stock.stays = f"it could not be removed: {error}"
            return
        if outcome.removed:
            LOGGER.info("removed %s from the engine", stock.image.name)
            stock.status = "absent"
            self._room.take(stock.image.name)
        else:
            LOGGER.info("%s stays in the engine: %s", stock.image.name, outcome.why_not)
            if outcome.for_now:
                stock.kept_until = time.monotonic() + _ASK_AGAIN_S
            else:
                stock.stays = outcome.why_not

    def _measure(self, stock: _Stock) -> None:
        """Count an image as the engine has it now, with what was prepared of it."""
        try:
            size = self._sizes.here(stock.image)
        except ContainerError:
            return  # the engine's failure shows where it is asked to work
        if size is None:
            stock.status = "absent"
            self._room.take(stock.image.name)
            return
        stock.size = size
        self._room.put(stock.image.name, size.layers, measured=True)

    def _no_room(self, stock: _Stock) -> str:
        self._room.put(stock.image.name, stock.size.layers, measured=stock.status == "here")
        needed = self._room.used_bytes
        self._room.take(stock.image.name)
        staying = sorted(f"{each.image.name} ({each.stays})" for each in self._stocks.values() if each.stays)
        return (
            f"the image {stock.image.name} does not fit into the disk budget: with what cannot be removed the images "
            f"would take {shown_bytes(needed)} of {shown_bytes(self._budget_bytes or 0)}"
            f"{'; staying: ' + ', '.join(staying[:5]) if staying else ''}"
        )

    def _require_open(self, _: PullProgress) -> None:
        if self._closed:
            raise ImageError("the run ended before the image came")

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left_s := deadline - time.monotonic()) > 0:
                self._changed.wait(left_s)
        if self._closed:
            raise ImageError("the run ended before the image came")
