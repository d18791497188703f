"""Where patches are graded: what a place is, and one engine of which this process is the client.

The other kind of place is a node of a Ray cluster (`ray_nodes`). Left out: which place grades what (`fleet`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from srl_swe.environments.image_names import package_image_name
from srl_swe.environments.leases import LABEL, owner_labels
from srl_swe.types import DerivedRecipe, Instance, SdistRecipe, Verdict

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine

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

    def judge(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        """Grade a patch, which is not empty; `say` takes what is being done."""

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

    def __init__(self, name: str, engine: "Engine", *, close_engine: bool = False) -> None:
        """`close_engine` hands the connection over to the place."""
        self.name = name
        self.engine = engine
        """The connection."""
        self._close_engine = close_engine
        self._others = own_containers(engine)

    def judge(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        """See `Place`."""
        return judge_on(self.engine, instance, patch, say)

    def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
        """See `Place`."""
        return images_of(self.engine, names)

    def check_alive(self) -> None:
        """See `Place`."""
        self.engine.list_containers(LABEL)

    def stop_running(self) -> None:
        """See `Place`. Containers that this process had there before the place was made stay."""
        for container in own_containers(self.engine) - self._others:
            self.engine.remove(container)

    def close(self) -> None:
        """See `Place`."""
        if self._close_engine:
            self.engine.close()


def judge_on(engine: "Engine", instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
    """Make sure of the image and grade in a fresh container."""
    from srl_swe.environments.grading import grade
    from srl_swe.environments.images import ensure_image

    say("image")
    ensure_image(engine, instance.environment)
    say("tests")
    return grade(engine, instance, patch)


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
    match environment.recipe:
        case SdistRecipe() as recipe:
            names.append(package_image_name(recipe, environment.workdir))
        case DerivedRecipe(parent=parent):
            names.append(parent)
    if instance.tests.restore_image is not None:
        names.append(instance.tests.restore_image)
    return tuple(dict.fromkeys(names))
