"""Where episodes are played and patches graded: what a place is, and one engine of which this process is the client.

The other kind of place is a node of a Ray cluster (`ray_nodes`). Left out: which place does what (`fleet`,
`acting_places`).
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from srl_swe.environments.image_names import parent_image_name, published_image_name
from srl_swe.environments.leases import LABEL, owner_labels
from srl_swe.errors import ContainerError
from srl_swe.types import Instance, Verdict

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine
    from srl_swe.environments.image_supply import ImageSupply
    from srl_swe.evaluation.episode_environments import EpisodeEnvironment, TimeLimits

_AGAIN_S = 60.0
"""Between two tries of the same name."""
_MAX_QUESTIONS = 8
"""To one engine at once."""

Judge = Callable[[Instance, str, Callable[[str], None]], Verdict]
"""(instance, patch, say what is being done) -> verdict. Raises ContainerError where infrastructure fails."""


class Place(Protocol):
    """One container engine, reached in whichever way. Serves many threads at once.

    Every method raises ContainerError where infrastructure fails.
    """

    name: str
    """For people, and unique among the places of a fleet: an engine's address, or a node of a cluster."""

    def ordered(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Return the instances in the order in which they are best graded there."""

    def admit(self, instance: Instance) -> bool:
        """Make room for an instance's image; False where there is none now. What was admitted is judged next."""

    def judge(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        """Grade a patch, which is not empty; `say` takes what is being done."""

    def open_environment(self, instance: Instance, limits: "TimeLimits") -> "EpisodeEnvironment":
        """Return an episode's environment there, not yet started."""

    def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return the id of each of these images that is there."""

    def check_alive(self) -> None:
        """Raise ContainerError when nothing can be graded there any more."""

    def stop_running(self) -> None:
        """Make running judges fail soon and leave no container behind. Nothing is graded there afterwards."""

    def close(self) -> None:
        """Give up the place: at the end, or because it is lost. Idempotent, and quick where nothing answers."""


class EnginePlace:
    """An engine that this process talks to by itself."""

    def __init__(
        self, name: str, engine: "Engine", *, images: "ImageSupply | None" = None, close_engine: bool = False
    ) -> None:
        """`images` brings the images there; `close_engine` hands the connection over to the place."""
        self.name = name
        self.engine = engine
        """The connection."""
        self._images = images
        self._close_engine = close_engine
        self._others = own_containers(engine)

    def ordered(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        """See `Place`."""
        return instances if self._images is None else self._images.ordered(instances)

    def admit(self, instance: Instance) -> bool:
        """See `Place`."""
        return self._images is None or self._images.admit(instance)

    def judge(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        """See `Place`."""
        from srl_swe.environments.grading import grade
        from srl_swe.environments.images import ensure_image

        say("image")
        with self._images.fetched(instance) if self._images else contextlib.nullcontext():
            ensure_image(self.engine, instance.environment)
            say("tests")
            return grade(self.engine, instance, patch)

    def open_environment(self, instance: Instance, limits: "TimeLimits") -> "EpisodeEnvironment":
        """See `Place`."""
        from srl_swe.evaluation.episode_environments import EngineEnvironment

        return EngineEnvironment(instance, limits, self.engine)

    def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
        """See `Place`."""
        return images_of(self.engine, names)

    def check_alive(self) -> None:
        """See `Place`."""
        self.engine.list_containers(LABEL)

    def stop_running(self) -> None:
        """See `Place`. Containers that this process had there before the place was made stay."""
        if self._images is not None:
            self._images.stop()
        for container in own_containers(self.engine) - self._others:
            self.engine.remove(container)

    def close(self) -> None:
        """See `Place`."""
        if self._close_engine:
            self.engine.close()


class LatelyTried:
    """Names of places that were tried a short while ago, so that those that fail are not tried all the time."""

    def __init__(self) -> None:
        self._tried: dict[str, float] = {}

    def take(self, name: str) -> bool:
        """Return whether a name may be tried now, which counts as a try."""
        now = time.monotonic()
        may_try = now - self._tried.get(name, -_AGAIN_S) >= _AGAIN_S
        if may_try:
            self._tried[name] = now
        return may_try


def published_image(place: Place, instance: Instance) -> Mapping[str, str]:
    """Return the id, by its name, of the published image that an instance was just graded on.

    Empty where all of it is built here, or where the place does not say: a verdict that was found holds.
    """
    name = published_image_name(instance.environment)
    try:
        return {} if name is None else place.find_images([name])
    except ContainerError:
        return {}


def images_of(engine: "Engine", names: Sequence[str]) -> dict[str, str]:
    """Return the id of each of these images that the engine has."""
    # An engine far away takes a tenth of a second for each, and there may be thousands.
    with ThreadPoolExecutor(_MAX_QUESTIONS) as asking:
        found = list(asking.map(engine.find_image, names))
    return {name: image.id for name, image in zip(names, found, strict=True) if image is not None}


def own_containers(engine: "Engine") -> set[str]:
    """Return the containers of this process at an engine."""
    mine = owner_labels().items()
    return {container.id for container in engine.list_containers(LABEL) if mine <= container.labels.items()}


def needed_images(instance: Instance) -> tuple[str, ...]:
    """Return the images that grading an instance needs, its own first, then what that is built on."""
    environment = instance.environment
    names = [environment.image]
    if (parent := parent_image_name(environment)) is not None:
        names.append(parent)
    if instance.tests.restore_image is not None:
        names.append(instance.tests.restore_image)
    return tuple(dict.fromkeys(names))
